# What a plan says, without a project: `make terraform-check`. What several resources must agree on is
# asserted in tests/terraform, on the plans of these very runs.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloudfunctions2_function" {
    defaults = {
      service_config = {
        service = "projects/shop-production/locations/europe-central2/services/the-function"
        uri     = "https://the-function-x.a.run.app"
      }
    }
  }
}

variables {
  project          = "shop-production"
  serving_image    = "europe-central2-docker.pkg.dev/shop-production/turnout/serving@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  bundle           = "../build/bundle-0123456789ab.zip"
  dashboard_secret = "an-example-of-thirty-two-letters"
  trainers         = ["serviceAccount:training@shop-training.iam.gserviceaccount.com"]
  operators        = ["group:ops@example.com"]
  key_admins       = ["user:owner@example.com"]
  dashboard_admins = ["owner@example.com"]
  dashboard_access = ["group:ml@example.com"]
  alert_emails     = ["ops@example.com"]
  billing_account  = "012345-6789AB-CDEF01"
}

run "production" {
  variables {
    alert_chat_spaces = ["spaces/AAAA1234"]
  }

  assert {
    condition     = google_workflows_workflow.deploy_model.source_contents == file("../workflows/deploy_model.yaml")
    error_message = "The workflow is not the tested file."
  }

  assert {
    condition     = google_firestore_database.state.delete_protection_state == "DELETE_PROTECTION_ENABLED"
    error_message = "The database can be deleted."
  }

  assert {
    condition = toset(google_billing_budget.project[0].all_updates_rule[0].monitoring_notification_channels) == toset([
      google_monitoring_notification_channel.email["ops@example.com"].id
    ])
    error_message = "A budget takes e-mail channels only: a chat's would be refused."
  }
}

# The pipeline owns the services from here on: whatever is edited, only their configuration changes.
run "an_edit_later" {
  command = plan

  variables {
    serving_image       = "europe-central2-docker.pkg.dev/shop-production/turnout/serving@sha256:2222222222222222222222222222222222222222222222222222222222222222"
    labels              = { team = "ml" }
    deletion_protection = false
  }

  assert {
    condition     = strcontains(google_firestore_document.model["movies"].fields, "@sha256:2222")
    error_message = "An edit of a model does not reach its configuration."
  }
}

run "a_service_stays_in_its_region" {
  command = plan

  variables {
    regions = ["europe-central2", "europe-west3"]
    models  = { movies = { region = "europe-west3" } }
  }

  expect_failures = [google_cloud_run_v2_service.model["movies"]]
}

# One model that says everything, one that says next to nothing.
run "two_models" {
  command = plan

  variables {
    regions = ["europe-central2", "europe-west3"]
    models = merge(jsondecode(file("tests/every_field.json")), {
      boots = {
        golden_customers = ["17"]
      }
    })
  }

  assert {
    condition     = google_cloud_run_v2_service.model["boots"].template[0].revision == "model-serving-boots-v0-1"
    error_message = "A model's service does not begin as the empty v0."
  }

  assert {
    condition = [for id in ["boots", "shoes"] : [
      google_cloud_run_v2_service.model[id].location,
      google_cloud_run_v2_job.prepare[id].location,
      google_cloud_run_v2_service_iam_binding.model["${id} traffic"].location,
      ]] == [
      ["europe-central2", "europe-central2", "europe-central2"],
      ["europe-west3", "europe-west3", "europe-west3"],
    ]
    error_message = "A model is not where it says, or the pipeline may not move its traffic there."
  }

  assert {
    condition     = length(google_firestore_document.model) == 2 && length(google_cloud_run_v2_job.prepare) == 2
    error_message = "A model declared in three lines lacks its configuration or its job."
  }
}

run "behind_a_domain" {
  command = plan

  variables {
    alert_emails           = []
    role_prefix            = "turnout2"
    function_instances     = 20
    dashboard_domain       = "turnout.example.com"
    dashboard_iap_audience = "/projects/123456789012/global/backendServices/42"
    chat_webhook_secret    = "3"
    regions                = ["europe-central2", "europe-west3"]
    training_buckets       = { shop-training = { create = false }, shop-more = {} }
    deletion_protection    = false
  }

  assert {
    condition     = google_cloudfunctions2_function.part["dashboard"].service_config[0].ingress_settings == "ALLOW_INTERNAL_AND_GCLB"
    error_message = "The dashboard can be reached past Identity-Aware Proxy."
  }

  assert {
    condition     = keys(google_storage_bucket.training) == ["shop-more"]
    error_message = "A bucket that is somebody else's would be created."
  }

  assert {
    condition     = length(google_billing_budget.project[0].all_updates_rule) == 0
    error_message = "A budget that tells nobody beside the billing account's own says how it tells them."
  }

  assert {
    condition = (
      google_project_iam_custom_role.role["state"].role_id == "turnout2_state" &&
      google_project_iam_member.part["cancel state"].role == "projects/shop-production/roles/turnout2_state"
    )
    error_message = "A role has another name than the one that is granted."
  }

  assert {
    condition = (
      google_cloudfunctions2_function.part["roll_back"].service_config[0].max_instance_count == 20 &&
      google_cloudfunctions2_function.part["reconcile"].service_config[0].max_instance_count == 1
    )
    error_message = "A function may have another number of instances than it should."
  }

  assert {
    condition     = length(google_secret_manager_secret.secret["dashboard-secret"].replication[0].user_managed[0].replicas) == 2
    error_message = "A secret has no replica in one of the regions."
  }
}

run "refuses_what_cannot_be_right" {
  command = plan

  variables {
    project             = "Shop"
    region              = "europe-central2-a"
    environment         = "Production!"
    labels              = { Team = "ml" }
    serving_image       = "turnout/serving:latest"
    bundle              = "../build/bundle.zip"
    training_buckets    = { "Shop" = {} }
    trainers            = ["allAuthenticatedUsers"]
    operators           = ["allUsers"]
    key_admins          = ["allUsers"]
    role_prefix         = "Turnout"
    function_instances  = 0
    dashboard_access    = ["allUsers"]
    dashboard_admins    = ["everybody"]
    dashboard_domain    = "https://turnout.example.com"
    chat_webhook_secret = "https://hooks.example.com/secret"
    alert_emails        = ["ops"]
    billing_account     = "mine"
    budget              = 0
  }

  expect_failures = [
    var.project,
    var.region,
    var.environment,
    var.labels,
    var.serving_image,
    var.bundle,
    var.training_buckets,
    var.trainers,
    var.operators,
    var.key_admins,
    var.role_prefix,
    var.function_instances,
    var.dashboard_access,
    var.dashboard_admins,
    var.dashboard_domain,
    var.chat_webhook_secret,
    var.alert_emails,
    var.billing_account,
    var.budget,
  ]
}

# Models are only looked at where the regions are right.
run "refuses_a_region_outside_of_all_regions" {
  command = plan

  variables {
    regions = ["europe-west3"]
  }

  expect_failures = [var.regions]
}

run "refuses_a_model_outside_of_all_regions" {
  command = plan

  variables {
    models = { shoes = { region = "us-east1" } }
  }

  expect_failures = [var.models]
}

run "refuses_a_model_by_a_name_that_no_service_may_have" {
  command = plan

  variables {
    models = { Shoes_1 = {} }
  }

  expect_failures = [var.models]
}

run "refuses_a_word_that_no_policy_has" {
  command = plan

  variables {
    models = { shoes = { policy = { when = "sometimes" } } }
  }

  expect_failures = [var.models]
}

run "refuses_a_model_with_another_parts_identity" {
  command = plan

  variables {
    models = { shoes = { service_account = "roll-back" } }
  }

  expect_failures = [google_service_account.part["roll-back"]]
}
