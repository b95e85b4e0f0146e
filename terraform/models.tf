# What a model is made of: its configuration, its service (once, empty) and the job that prepares it.

locals {
  # As shared/messages.py (ModelDeclaration) reads it, and localcloud/project.py writes it.
  models = {
    for id, model in var.models : id => merge(model, {
      model_id        = id
      region          = model.region == "" ? var.region : model.region
      image           = model.image == "turnout-serving" ? var.serving_image : model.image
      service_account = local.emails[model.service_account]
      env             = merge({ TURNOUT_PROJECT = var.project }, model.env)
    })
  }
  serving_accounts = toset([for model in var.models : model.service_account])

  # An object as Firestore's API writes its fields: each value under the name of its type.
  fields = "${path.module}/firestore_fields.tftpl"
  inner = {
    for id, model in local.models : id => {
      env           = templatefile(local.fields, { plain = model.env, nested = {} })
      prepare       = templatefile(local.fields, { plain = model.prepare, nested = {} })
      retrieval     = templatefile(local.fields, { plain = model.retrieval, nested = {} })
      guard_metrics = templatefile(local.fields, { plain = model.policy.guard_metrics, nested = {} })
      canary        = templatefile(local.fields, { plain = model.policy.canary, nested = {} })
      skew          = templatefile(local.fields, { plain = model.policy.skew, nested = {} })
      hold          = templatefile(local.fields, { plain = model.policy.hold, nested = {} })
    }
  }
  policies = {
    for id, model in local.models : id => templatefile(local.fields, {
      plain = {
        for name, value in model.policy : name => value
        if !contains(["guard_metrics", "canary", "skew", "hold"], name)
      }
      nested = {
        for name in ["guard_metrics", "canary", "skew", "hold"] : name => local.inner[id][name]
      }
    })
  }
}

# Terraform owns this document and writes all of it; the pipeline only reads it. A deployment keeps the
# configuration that it began with.
resource "google_firestore_document" "model" {
  for_each = local.models

  database    = google_firestore_database.state.name
  collection  = "model_configs"
  document_id = each.key
  fields = trimspace(templatefile(local.fields, {
    plain = {
      for name, value in each.value : name => value
      if !contains(["env", "prepare", "retrieval", "policy"], name)
    }
    nested = {
      env       = local.inner[each.key].env
      prepare   = local.inner[each.key].prepare
      retrieval = local.inner[each.key].retrieval
      policy    = local.policies[each.key]
    }
  }))
  # It goes before the service and the job: a model that is lost from the map by mistake stops here.
  deletion_policy = var.deletion_protection ? "PREVENT" : "DELETE"

  # What it names must be there before a deployment reads it, and functions that know its fields.
  depends_on = [
    google_cloud_run_v2_job.prepare,
    google_cloud_run_v2_service.model,
    google_cloudfunctions2_function.part,
  ]
}

# Created once, as the empty v0; from then on the pipeline owns it. An update of Terraform's carries
# neither a mask nor an etag: it would write back the traffic that Terraform last saw, in the middle of a
# rollout. So nothing here is ever updated, deletion_protection included: docs/how-to/retire-a-model.md.
resource "google_cloud_run_v2_service" "model" {
  for_each = local.models

  name                = "model-serving-${each.key}"
  location            = each.value.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = var.deletion_protection
  # The prediction API checks API keys itself, so anybody may call it: docs/decisions/0016.
  invoker_iam_disabled = true

  scaling {
    min_instance_count = each.value.min_instances
  }
  template {
    revision                         = "model-serving-${each.key}-v0-1"
    service_account                  = each.value.service_account
    max_instance_request_concurrency = each.value.concurrency
    scaling {
      max_instance_count = each.value.max_instances
    }
    containers {
      image = each.value.image
      ports {
        container_port = 8080
      }
      dynamic "env" {
        for_each = { MODEL_ID = each.key, TURNOUT_PROJECT = var.project }
        content {
          name  = env.key
          value = env.value
        }
      }
      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = false # as in every later revision: shared/gcp/cloud_run.py
        startup_cpu_boost = true
      }
    }
  }

  lifecycle {
    ignore_changes = all

    postcondition {
      condition     = self.location == each.value.region
      error_message = "The service of ${each.key} is in ${self.location} and cannot move. Give the new region to a model of another id, lead the callers there, then retire this one."
    }
  }
  depends_on = [google_project_service.api]
}

# Each execution is told which version it prepares.
resource "google_cloud_run_v2_job" "prepare" {
  for_each = local.models

  name                = "prepare-${each.key}"
  location            = each.value.region
  deletion_protection = var.deletion_protection

  template {
    task_count = each.value.prepare.tasks
    template {
      service_account = local.emails["prepare"]
      max_retries     = 1
      timeout         = "3600s"
      containers {
        image = each.value.image
        args  = ["prepare"]
        dynamic "env" {
          for_each = { MODEL_ID = each.key, TURNOUT_PROJECT = var.project }
          content {
            name  = env.key
            value = env.value
          }
        }
        resources {
          limits = { cpu = each.value.cpu, memory = each.value.memory }
        }
      }
    }
  }

  depends_on = [google_project_service.api]
}
