# What is promised (the variable `objectives`, over 28 days), and who is told when it is missed too fast.
# docs/slo.md has the formulae. Requests to the empty v0 and 4xx answers do not count: there is nothing
# to serve yet, and the caller's own mistakes.

resource "google_monitoring_custom_service" "model" {
  for_each = var.models

  service_id   = "prediction-${each.key}"
  display_name = "Predictions of ${each.key}"
  user_labels  = local.labels
  telemetry {
    resource_name = "//run.googleapis.com/projects/${var.project}/locations/${local.models[each.key].region}/services/model-serving-${each.key}"
  }

  depends_on = [google_project_service.api]
}

locals {
  # The same requests twice: as Monitoring's filters say it (the objectives), and as PromQL does (below).
  served_by = { for id in keys(var.models) : id => join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"model-serving-${id}\"",
    "resource.labels.revision_name!=\"model-serving-${id}-v0-1\"",
  ]) }
  served = "monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-.+\",revision_name!~\".+-v0-1\""
}

resource "google_monitoring_slo" "availability" {
  for_each = var.models

  service             = google_monitoring_custom_service.model[each.key].service_id
  slo_id              = "availability"
  display_name        = "Predictions of ${each.key} that do not fail"
  goal                = var.objectives.availability
  rolling_period_days = 28

  request_based_sli {
    good_total_ratio {
      bad_service_filter   = "metric.type=\"run.googleapis.com/request_count\" AND ${local.served_by[each.key]} AND metric.labels.response_code_class=\"5xx\""
      total_service_filter = "metric.type=\"run.googleapis.com/request_count\" AND ${local.served_by[each.key]} AND metric.labels.response_code_class!=\"4xx\""
    }
  }
}

resource "google_monitoring_slo" "latency" {
  for_each = var.models

  service             = google_monitoring_custom_service.model[each.key].service_id
  slo_id              = "latency"
  display_name        = "Predictions of ${each.key} within ${var.objectives.latency_ms} ms"
  goal                = var.objectives.latency
  rolling_period_days = 28

  request_based_sli {
    distribution_cut {
      distribution_filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.served_by[each.key]} AND metric.labels.response_code_class=\"2xx\""
      range {
        min = 0
        max = var.objectives.latency_ms
      }
    }
  }
}

resource "google_monitoring_custom_service" "deployments" {
  service_id   = "deployments"
  display_name = "Deployments"
  user_labels  = local.labels

  depends_on = [google_project_service.api]
}

resource "google_monitoring_slo" "rollouts" {
  service             = google_monitoring_custom_service.deployments.service_id
  slo_id              = "rollouts"
  display_name        = "Rollouts that the pipeline brought to their end"
  goal                = var.objectives.rollouts
  rolling_period_days = 28

  request_based_sli {
    good_total_ratio {
      bad_service_filter   = "${local.rollouts} AND metric.labels.fault=\"pipeline\""
      total_service_filter = "${local.rollouts} AND metric.labels.outcome=one_of(\"active\", \"failed\")"
    }
  }
}

locals {
  rollouts = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.count["rollouts"].name}\" AND resource.type=\"cloud_run_revision\""

  # Burn rates after the Google SRE workbook, chapter 5: a budget of 28 days is gone in two days at 14.4
  # times what is allowed, in five at 6 times. Both windows must agree: the long one says that it
  # matters, the short one that it still goes on. `least` keeps a handful of requests from waking people.
  windows = {
    fast   = { long = "1h", short = "5m", factor = 14.4, least = 10, severity = "CRITICAL" }
    steady = { long = "6h", short = "30m", factor = 6, least = 30, severity = "CRITICAL" }
    slow   = { long = "24h", short = "2h", factor = 3, least = 50, severity = "WARNING" }
  }

  burn_alerts = merge(
    { for name, window in local.windows : "Predictions fail ${local.paces[name]}" => {
      severity = window.severity
      duration = "0s"
      query    = local.failing[name]
      says     = "Of a model's prediction requests more than ${format("%.3g", 100 * window.factor * (1 - var.objectives.availability))} % fail, over ${window.long} and still: ${window.factor} times what the objective allows."
    } },
    { for name, window in local.windows : "Predictions are slow ${local.paces[name]}" => {
      # Slow answers are answers: they wake nobody up unless most of them are.
      severity = name == "fast" ? "CRITICAL" : "WARNING"
      duration = "0s"
      query    = local.slowing[name]
      says     = "Of a model's predictions more than ${format("%.3g", 100 * window.factor * (1 - var.objectives.latency))} % take longer than ${var.objectives.latency_ms} ms, over ${window.long} and still: ${window.factor} times what the objective allows."
    } if window.factor * (1 - var.objectives.latency) < 1 },
  )
  paces = { fast = "at once", steady = "for hours", slow = "for a day" }

  failing = { for name, window in local.windows : name => join(" and ", concat(
    [for over in [window.long, window.short] : join("", [
      "(sum by (service_name) (rate(run_googleapis_com:request_count{${local.served},response_code_class=\"5xx\"}[${over}]))",
      " / sum by (service_name) (rate(run_googleapis_com:request_count{${local.served},response_code_class!=\"4xx\"}[${over}]))",
      " > ${format("%.6f", window.factor * (1 - var.objectives.availability))})",
    ])],
    ["(sum by (service_name) (increase(run_googleapis_com:request_count{${local.served},response_code_class=\"5xx\"}[${window.long}])) >= ${window.least})"],
  )) }

  # More than a part p of the answers is slower than the limit exactly where the quantile 1 - p is.
  slowing = { for name, window in local.windows : name => join(" and ", concat(
    [for over in [window.long, window.short] : join("", [
      "(histogram_quantile(${format("%.6f", 1 - window.factor * (1 - var.objectives.latency))},",
      " sum by (service_name, le) (rate(run_googleapis_com:request_latencies_bucket{${local.served},response_code_class=\"2xx\"}[${over}])))",
      " > ${var.objectives.latency_ms})",
    ])],
    ["(sum by (service_name) (increase(run_googleapis_com:request_count{${local.served},response_code_class=\"2xx\"}[${window.long}])) >= ${10 * window.least})"],
  )) }
}
