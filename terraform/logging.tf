# Metrics made of log lines. The functions and the containers write one JSON object a line, with a
# constant `message`: `transition` for whatever is recorded about a deployment, `rollout ended` with
# whose fault it was, `step ended`, `step refused`. tests/terraform/test_monitoring.py writes those
# lines with the real code and holds every filter and label here against them.

locals {
  log_metrics = {
    transitions = {
      description = "What happened to deployments: requested, started, active, failed, rollback, drift found, ..."
      filter      = "jsonPayload.message=\"transition\""
      labels      = { action = "EXTRACT(jsonPayload.action)", model_id = "EXTRACT(jsonPayload.model_id)" }
    }
    rollouts = {
      description = "Rollouts that ended, by outcome, and by code and fault where they failed."
      filter      = "jsonPayload.message=\"rollout ended\""
      labels = {
        outcome  = "EXTRACT(jsonPayload.outcome)"
        code     = "EXTRACT(jsonPayload.code)"
        fault    = "EXTRACT(jsonPayload.fault)"
        model_id = "EXTRACT(jsonPayload.model_id)"
      }
    }
    canary_verdicts = {
      description = "What the canary judge said of a stage, when it first said so."
      filter      = "jsonPayload.message=\"transition\" AND jsonPayload.action=\"judged\""
      labels = {
        verdict  = "REGEXP_EXTRACT(jsonPayload.why, \"^(pass|fail|inconclusive)\")"
        model_id = "EXTRACT(jsonPayload.model_id)"
      }
    }
    step_failures = {
      description = "Calls of functions that were refused or failed, each try of them, by code."
      filter      = "jsonPayload.message=\"step refused\" OR jsonPayload.message=\"step failed\""
      labels      = { function = "EXTRACT(jsonPayload.function)", code = "EXTRACT(jsonPayload.code)" }
    }
    messages = {
      description = "Training-completed messages, by what became of them; refused ones are dead letters."
      filter      = "jsonPayload.message=\"message handled\""
      labels      = { outcome = "EXTRACT(jsonPayload.outcome)" }
    }
    scheduled_runs = {
      description = "Runs of reconcile and collect_metrics that got through, by function and how they ended."
      filter      = "(jsonPayload.function=\"Reconcile\" OR jsonPayload.function=\"CollectMetrics\") AND (jsonPayload.message=\"step done\" OR jsonPayload.message=\"step refused\")"
      labels      = { function = "EXTRACT(jsonPayload.function)", message = "EXTRACT(jsonPayload.message)" }
    }
    serving_faults = {
      description = "Faults that the prediction containers tell of, by which."
      filter = join(" OR ", [
        for message in local.serving_faults : "jsonPayload.message=\"${message}\""
      ])
      labels = { fault = "EXTRACT(jsonPayload.message)", service = "EXTRACT(resource.labels.service_name)" }
    }
  }

  log_distributions = {
    step_seconds = {
      description = "How long a step of a deployment took, all its tries together."
      filter      = "jsonPayload.message=\"step ended\""
      value       = "EXTRACT(jsonPayload.seconds)"
      labels      = { step = "EXTRACT(jsonPayload.step)", model_id = "EXTRACT(jsonPayload.model_id)" }
    }
    rollout_seconds = {
      description = "From the message to all of the traffic, baking and waiting for people included."
      filter      = "jsonPayload.message=\"rollout ended\" AND jsonPayload.outcome=\"active\""
      value       = "EXTRACT(jsonPayload.seconds)"
      labels      = { model_id = "EXTRACT(jsonPayload.model_id)" }
    }
  }

  # "No TensorFlow" comes first: a container whose model's process ended answers known customers only.
  serving_faults = [
    "the model's process ended",
    "model failed to load",
    "answering failed",
    "API keys cannot be looked up",
    "an API key's document has vanished",
    "usage cannot be written",
    "customers of an hour are lost",
    "container failed to start",
  ]

  # The functions are Cloud Run services, too.
  from_cloud_run = "resource.type=\"cloud_run_revision\""
}

resource "google_logging_metric" "count" {
  for_each = local.log_metrics

  name             = "turnout_${each.key}"
  description      = each.value.description
  filter           = "${local.from_cloud_run} AND (${each.value.filter})"
  label_extractors = each.value.labels

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    dynamic "labels" {
      for_each = each.value.labels
      content {
        key        = labels.key
        value_type = "STRING"
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_logging_metric" "distribution" {
  for_each = local.log_distributions

  name             = "turnout_${each.key}"
  description      = each.value.description
  filter           = "${local.from_cloud_run} AND (${each.value.filter})"
  value_extractor  = each.value.value
  label_extractors = each.value.labels

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "s"
    dynamic "labels" {
      for_each = each.value.labels
      content {
        key        = labels.key
        value_type = "STRING"
      }
    }
  }
  bucket_options {
    # From a tenth of a second to some twelve days.
    exponential_buckets {
      scale              = 0.1
      growth_factor      = 1.5
      num_finite_buckets = 40
    }
  }

  depends_on = [google_project_service.api]
}
