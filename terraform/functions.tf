# Every function from one bundle, each at its own entry point, under its own identity.
#
# A function answers at local.functions_url/NAME and at a URL of Cloud Run's. Its Cloud Run service has
# hyphens where its name has underscores. Those that only Pub/Sub and Cloud Scheduler call are shut
# to the world outside, and are called at Cloud Run's URL, to which these two count as inside; the workflow's
# steps are called by name, at the other one, so that only IAM guards them (docs/decisions/0016).

locals {
  # timeout_s: what may happen in one call; the workflow waits 900 s at most for a step. memory: two files
  # of 64 MiB each, read whole, take 2Gi and a container of their own; else four calls share one, as many
  # as functions-framework has threads on one CPU. instances: fewer than var.function_instances.
  entry_points = {
    abort_deployment = {
      about     = "Ends a rollout that failed: the traffic goes back"
      timeout_s = 900
    }
    cancel = {
      about     = "Ends a rollout because a person said so"
      timeout_s = 300
    }
    check_health = {
      about       = "Asks the candidate through its tag URL, before any user sees it"
      timeout_s   = 900
      memory      = "2Gi"
      concurrency = 1
    }
    claim_deployment = {
      about     = "Takes a deployment for one execution of the workflow"
      timeout_s = 120
    }
    collect_metrics = {
      about     = "Brings the hourly serving metrics into Firestore"
      timeout_s = 1800
      memory    = "1Gi"
      inside    = true
      instances = 1
    }
    copy_artifacts = {
      about     = "Copies a run's artifacts to the serving bucket, and pins them"
      timeout_s = 900
    }
    create_revision = {
      about     = "Creates the candidate's revision at 0 % of the traffic"
      timeout_s = 900
    }
    dashboard = {
      about     = "Pages and REST API"
      timeout_s = 300
      memory    = "2Gi"
      ingress   = local.dashboard_ingress
      environment = merge(
        {
          TURNOUT_IDENTITY       = "iam"
          TURNOUT_TOOLS          = "gcloud"
          TURNOUT_ADMINS         = join(",", sort(var.dashboard_admins))
          TURNOUT_DEPLOYERS      = join(",", sort(var.dashboard_deployers))
          TURNOUT_VIEWERS        = join(",", sort(var.dashboard_viewers))
          TURNOUT_ORIGINS        = join(",", local.dashboard_origins)
          TURNOUT_FORWARDED_HOPS = "1"
        },
        local.dashboard_environment_behind_iap,
      )
    }
    finish_deployment = {
      about     = "Makes a deployment the active one"
      timeout_s = 300
    }
    judge_canary = {
      about     = "Says whether the stage that bakes may be left"
      timeout_s = 300
    }
    on_deployment_event = {
      about     = "Tells people in a chat what happened to a deployment"
      timeout_s = 60
      inside    = true
      environment = {
        TURNOUT_DASHBOARD_URL = local.dashboard_url
      }
    }
    on_training_completed = {
      about       = "Takes a training-completed message: the only way in"
      timeout_s   = 300
      memory      = "2Gi"
      concurrency = 1
      inside      = true
    }
    prepare_model = {
      about     = "Has the model loaded and its answers prepared before any revision exists"
      timeout_s = 300
    }
    reconcile = {
      about     = "Finds what died half-way, completes or undoes it, clears away"
      timeout_s = 1800
      memory    = "1Gi"
      inside    = true
      instances = 1
    }
    roll_back = {
      about     = "Gives an earlier version the traffic again"
      timeout_s = 300
    }
    shift_traffic = {
      about     = "Gives the candidate its next share of the traffic"
      timeout_s = 300
    }
  }

  # Where its pages are reached under another host than the service's own: gcloud's proxy.
  dashboard_origins = ["http://127.0.0.1:8080", "http://localhost:8080"]

  # What every function reads: shared/config.py.
  settings = {
    TURNOUT_PROJECT          = var.project
    TURNOUT_REGION           = var.region
    TURNOUT_SERVING_BUCKET   = local.serving_bucket
    TURNOUT_TRAINING_BUCKETS = join(",", sort(keys(local.training_buckets)))
    TURNOUT_FUNCTIONS_URL    = local.functions_url
    # What OpenTelemetry itself reads, here and in the containers: shared/tracing.py.
    OTEL_TRACES_EXPORTER        = var.traces ? "otlp" : "none"
    OTEL_EXPORTER_OTLP_ENDPOINT = "https://telemetry.googleapis.com"
  }
}

resource "google_cloudfunctions2_function" "part" {
  #checkov:skip=CKV_GCP_124:The workflow and people come from outside; each needs the ID token of somebody who may
  for_each = local.entry_points

  name        = each.key
  location    = var.region
  description = each.value.about

  build_config {
    runtime           = "python311"
    entry_point       = each.key
    service_account   = "projects/${var.project}/serviceAccounts/${local.emails["build"]}"
    docker_repository = google_artifact_registry_repository.functions.id
    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.bundle.name
      }
    }
  }

  service_config {
    service_account_email            = local.emails[each.key]
    environment_variables            = merge(local.settings, try(each.value.environment, {}))
    timeout_seconds                  = each.value.timeout_s
    available_cpu                    = "1"
    available_memory                 = try(each.value.memory, "512Mi")
    max_instance_request_concurrency = try(each.value.concurrency, 4)
    min_instance_count               = 0
    max_instance_count               = try(each.value.instances, var.function_instances)
    ingress_settings                 = try(each.value.ingress, try(each.value.inside, false) ? "ALLOW_INTERNAL_ONLY" : "ALLOW_ALL")
    all_traffic_on_latest_revision   = true

    dynamic "secret_environment_variables" {
      for_each = {
        for name, secret in local.secrets : name => secret
        if secret.function == each.key && (name != "chat-webhook" || var.chat_webhook_secret != "")
      }
      content {
        project_id = var.project
        secret     = google_secret_manager_secret.secret[secret_environment_variables.key].secret_id
        key        = secret_environment_variables.value.variable
        version    = secret_environment_variables.value.version
      }
    }
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_project_iam_member.build,
    google_secret_manager_secret_iam_member.reader,
    google_storage_bucket_iam_member.build,
  ]
}
