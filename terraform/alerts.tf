# Who is told what. Each alert is a row below, by its title; docs/runbook.md has a section under the
# same title, which every notification links to. tests/terraform/test_monitoring.py holds the two, and
# the log lines that the code really writes, against each other.
#
# Severity: critical wakes somebody up (predictions fail or are about to), error is for today, warning
# for this week. Why so, and why three kinds of conditions: docs/decisions/0023-alerts.md.

resource "google_monitoring_notification_channel" "email" {
  for_each = var.alert_emails

  display_name = each.value
  type         = "email"
  labels       = { email_address = each.value }

  depends_on = [google_project_service.api]
}

resource "google_monitoring_notification_channel" "chat" {
  for_each = var.alert_chat_spaces

  display_name = each.value
  type         = "google_chat"
  labels       = { space = each.value }

  depends_on = [google_project_service.api]
}

locals {
  tickets = [
    for channel in concat(
      values(google_monitoring_notification_channel.email),
      values(google_monitoring_notification_channel.chat),
    ) : channel.id
  ]
  channels = {
    CRITICAL = concat(local.tickets, var.alert_page_channels)
    ERROR    = local.tickets
    WARNING  = local.tickets
  }

  # --- What a log line tells: people read its fields in the notification. ---------------------------
  # A notification is sent once in `every` by each policy, which speaks for all models. What is written
  # once of a deployment may follow on another's five minutes later; what is written again and again
  # while it lasts is repeated every half hour.
  once_each = "300s"
  about_deployment = {
    model      = "EXTRACT(jsonPayload.model_id)"
    deployment = "EXTRACT(jsonPayload.deployment_id)"
  }
  state_is_older = "jsonPayload.code=\"state_is_older\" OR (jsonPayload.message=\"repair failed\" AND jsonPayload.stack_trace:\"StateIsOlder\")"
  log_alerts = {
    "Deployment failed" = {
      every    = local.once_each
      severity = "ERROR"
      filter   = "jsonPayload.message=\"rollout ended\" AND jsonPayload.fault=\"pipeline\""
      labels   = merge(local.about_deployment, { code = "EXTRACT(jsonPayload.code)" })
      says     = "A rollout ended by a fault of the pipeline, not of its model. Traffic is where it was before."
    }
    "Candidate was stopped" = {
      every    = local.once_each
      severity = "WARNING"
      filter   = "jsonPayload.message=\"rollout ended\" AND jsonPayload.fault=\"candidate\""
      labels   = merge(local.about_deployment, { code = "EXTRACT(jsonPayload.code)" })
      says     = "A check, the canary judge or nobody's approval ended a rollout. Traffic is where it was before."
    }
    "Rollout waits for approval" = {
      every    = local.once_each
      severity = "WARNING"
      filter   = "jsonPayload.message=\"transition\" AND jsonPayload.action=\"holding\""
      labels   = merge(local.about_deployment, { why = "EXTRACT(jsonPayload.why)" })
      says     = "A rollout stays at its share of traffic until a person approves it, skips or cancels."
    }
    "Approval is about to run out" = {
      severity = "ERROR"
      filter   = "jsonPayload.message=\"approval is due\""
      labels   = local.about_deployment
      says     = "A quarter of the time for an approval is left; after it the rollout is aborted."
    }
    "Rolled back" = {
      every    = local.once_each
      severity = "WARNING"
      filter   = "jsonPayload.message=\"transition\" AND jsonPayload.action=\"rollback\""
      labels = merge(local.about_deployment, {
        by  = "EXTRACT(jsonPayload.actor)"
        why = "EXTRACT(jsonPayload.why)"
      })
      says = "Somebody gave all traffic back to an earlier version."
    }
    "Traffic was changed by hand" = {
      every    = local.once_each
      severity = "ERROR"
      filter   = "jsonPayload.message=\"transition\" AND jsonPayload.action=\"drift found\""
      labels   = merge(local.about_deployment, { found = "EXTRACT(jsonPayload.why)" })
      says     = "Cloud Run serves another split than the pipeline wants: somebody wrote it past the pipeline."
    }
    "Reconcile repaired something" = {
      every    = local.once_each
      severity = "WARNING"
      filter   = "jsonPayload.message=\"transition\" AND jsonPayload.action=\"repaired\""
      labels   = merge(local.about_deployment, { what = "EXTRACT(jsonPayload.why)" })
      says     = "Something died half-way and was completed. Once is nothing; often is a fault to look for."
    }
    "Reconcile cannot repair" = {
      severity = "ERROR"
      filter   = "jsonPayload.message=\"repair failed\" AND NOT (${local.state_is_older})"
      labels   = { model = "EXTRACT(jsonPayload.model_id)" }
      says     = "A model could not be looked after; what is half-way there stays so until it can."
    }
    "Workflow could not be started" = {
      severity = "ERROR"
      filter   = "jsonPayload.message=\"execution not started\""
      labels   = { deployment = "EXTRACT(jsonPayload.deployment_id)" }
      says     = "A deployment has its turn and no workflow execution; reconcile tries again every few minutes."
    }
    "Events are not announced" = {
      severity = "WARNING"
      filter   = "jsonPayload.message=\"events wait\""
      labels   = { why = "EXTRACT(jsonPayload.why)" }
      says     = "Pub/Sub did not take deployment events: chats and other listeners hear nothing meanwhile."
    }
    "Event was refused" = {
      severity = "WARNING"
      filter = join(" OR ", [
        for message in ["event refused", "event not understood", "chat message refused"] :
        "jsonPayload.message=\"${message}\""
      ])
      labels = { why = "EXTRACT(jsonPayload.why)" }
      says   = "An event reached nobody, and never will: a schema, a listener or the chat's webhook refuses it."
    }
    "API keys cannot be looked up" = {
      severity = "CRITICAL"
      filter   = "jsonPayload.message=\"API keys cannot be looked up\""
      labels   = { service = "EXTRACT(resource.labels.service_name)", why = "EXTRACT(jsonPayload.reason)" }
      says     = "Containers do not reach Firestore. Keys seen within the last hour go on working, others are refused."
    }
    "API keys have vanished" = {
      severity = "ERROR"
      filter   = "jsonPayload.message=\"an API key's document has vanished\""
      labels   = { service = "EXTRACT(resource.labels.service_name)", key = "EXTRACT(jsonPayload.key)" }
      says     = "A key that worked lately is not in Firestore any more: documents were deleted, or restored without it."
    }
    "State is older than Cloud Run" = {
      severity = "ERROR"
      filter   = local.state_is_older
      labels   = { model = "EXTRACT(jsonPayload.model_id)" }
      says     = "Firestore was restored or lost: nothing of that model moves until somebody says what is true."
    }
    "Model process ended" = {
      severity = "ERROR"
      filter   = "jsonPayload.message=\"the model's process ended\" OR jsonPayload.message=\"model failed to load\""
      labels   = { service = "EXTRACT(resource.labels.service_name)", revision = "EXTRACT(resource.labels.revision_name)" }
      says     = "TensorFlow died in a container, most often for its memory; the container is replaced."
    }
    "No instance was free" = {
      severity = "CRITICAL"
      filter   = "resource.labels.service_name=~\"^model-serving-\" AND textPayload:\"no available instance\""
      labels   = { service = "EXTRACT(resource.labels.service_name)" }
      says     = "Cloud Run refused prediction requests because all instances were busy: no metric counts these."
    }
    "Scheduled call failed" = {
      severity = "ERROR"
      # What the function itself answered 5xx is told by the function's own alerts.
      filter = "resource.type=\"cloud_scheduler_job\" AND severity>=ERROR AND NOT jsonPayload.debugInfo:\"UNREACHABLE_5xx\""
      labels = { job = "EXTRACT(resource.labels.job_id)" }
      says   = "Cloud Scheduler did not reach `reconcile` or `collect_metrics`, or was refused there."
    }
  }

  # --- What is counted or measured: counts are sums over `period`, because ratios of a few calls lie. --
  # The functions are Cloud Run services, whose names have hyphens.
  function_services = [for name in keys(google_cloudfunctions2_function.part) : replace(name, "_", "-")]

  requests     = "resource.type=\"cloud_run_revision\" AND metric.type=\"run.googleapis.com/request_count\""
  of_functions = "resource.labels.service_name=monitoring.regex.full_match(\"${join("|", local.function_services)}\")"
  api_calls    = "resource.type=\"consumed_api\" AND metric.type=\"serviceruntime.googleapis.com/api/request_count\""
  metric_alerts = merge({
    "Message in the dead letters" = {
      severity = "ERROR"
      filter   = "resource.type=\"pubsub_subscription\" AND metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.labels.subscription_id=monitoring.regex.full_match(\".*dead-letter.*\")"
      period   = "300s"
      aligner  = "ALIGN_MAX"
      reducer  = "REDUCE_MAX"
      by       = ["resource.labels.subscription_id"]
      over     = 0
      says     = "A training run was not deployed (or an event not told): its message can never succeed as it is."
    }
    "Messages wait" = {
      severity = "ERROR"
      filter   = "resource.type=\"pubsub_subscription\" AND metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.labels.subscription_id!=monitoring.regex.full_match(\".*dead-letter.*\")"
      period   = "300s"
      aligner  = "ALIGN_MAX"
      reducer  = "REDUCE_MAX"
      by       = ["resource.labels.subscription_id"]
      over     = 600
      says     = "The oldest message was not handled for ten minutes, though it is delivered again and again."
    }
    "Function keeps failing" = {
      severity = "ERROR"
      # Without `reconcile`: it answers 503 as long as one model cannot be repaired, which has an alert.
      filter  = "${local.requests} AND metric.labels.response_code_class=\"5xx\" AND resource.labels.service_name=monitoring.regex.full_match(\"${join("|", [for name in local.function_services : name if name != "reconcile"])}\")"
      period  = "1800s"
      aligner = "ALIGN_SUM"
      reducer = "REDUCE_SUM"
      by      = ["resource.labels.service_name"]
      over    = 9
      says    = "A function answered 5xx ten times in half an hour. Each call is tried again, so this is more than a blip."
    }
    "Workflow executions fail" = {
      severity = "WARNING"
      filter   = "resource.type=\"workflows.googleapis.com/Workflow\" AND metric.type=\"workflows.googleapis.com/finished_execution_count\" AND metric.labels.status=\"FAILED\""
      period   = "3600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = []
      over     = 2
      says     = "Three deployments or more ended as failed within an hour: look for what they share."
    }
    "Quota is exhausted" = {
      severity = "ERROR"
      filter   = "${local.api_calls} AND metric.labels.response_code=\"429\""
      period   = "600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = ["resource.labels.service"]
      over     = 0
      says     = "A Google API answered 429: the project asked more often than its quota allows."
    }
    "Permission is denied" = {
      severity = "ERROR"
      filter   = "${local.api_calls} AND metric.labels.response_code=\"403\" AND resource.labels.service=one_of(\"firestore.googleapis.com\", \"pubsub.googleapis.com\", \"run.googleapis.com\", \"storage.googleapis.com\", \"workflowexecutions.googleapis.com\", \"monitoring.googleapis.com\")"
      period   = "600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = ["resource.labels.service", "resource.labels.method"]
      over     = 3
      says     = "Google refused calls for want of a role: a grant is missing, or was taken away."
    }
    "Firestore fails" = {
      severity = "ERROR"
      filter   = "${local.api_calls} AND resource.labels.service=\"firestore.googleapis.com\" AND metric.labels.response_code_class=\"5xx\""
      period   = "600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = []
      over     = 20
      says     = "Firestore answers with errors: nothing is deployed meanwhile, and keys are looked up from memory."
    }
    "Firestore is contended" = {
      severity = "WARNING"
      filter   = "${local.api_calls} AND resource.labels.service=\"firestore.googleapis.com\" AND metric.labels.grpc_status_code=\"10\""
      period   = "600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = []
      over     = 100
      says     = "Transactions were aborted a hundred times in ten minutes: much happens to one model at once."
    }
    "Model has no version" = {
      severity = "WARNING"
      filter   = "${local.requests} AND resource.labels.revision_name=monitoring.regex.full_match(\"model-serving-.*-v0-1\")"
      period   = "600s"
      aligner  = "ALIGN_SUM"
      reducer  = "REDUCE_SUM"
      by       = ["resource.labels.service_name"]
      # Uptime checks alone are 12, and 18 where three rounds of them fall into one period.
      over = 30
      says = "Applications ask a model that nothing was deployed to yet, and get 503."
    }
    }, length(local.uptime_hosts) == 0 ? {} : {
    "Health is not answered" = {
      severity = "CRITICAL"
      filter   = "resource.type=\"uptime_url\" AND metric.type=\"monitoring.googleapis.com/uptime_check/check_passed\""
      period   = "600s"
      aligner  = "ALIGN_NEXT_OLDER"
      reducer  = "REDUCE_COUNT_FALSE"
      by       = ["resource.labels.host"]
      over     = 1
      says     = "From two places of the world or more, an address of Turnout is not answered as it should be."
    }
    }, !contains(keys(local.uptime_hosts), "dashboard") ? {} : {
    "Certificate is about to expire" = {
      severity = "ERROR"
      filter   = "resource.type=\"uptime_url\" AND metric.type=\"monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires\" AND resource.labels.host=\"${var.dashboard_domain}\""
      period   = "1200s"
      aligner  = "ALIGN_NEXT_OLDER"
      reducer  = "REDUCE_MIN"
      by       = ["resource.labels.host"]
      under    = 14
      says     = "The dashboard's certificate was not renewed: Google does so a month before it ends."
    }
  })

  # --- What has to happen and does not: it runs, by its own lines, whatever it found. -----------------
  # `absent_over_time` speaks also of what never ran at all. The window holds several runs; the duration,
  # in which the query must go on saying so, the time until the first one after an installation and
  # the ten minutes that a log-based metric may be late.
  absence_alerts = {
    "Reconcile does not run" = {
      severity = "ERROR"
      duration = "900s"
      query    = "absent_over_time(${local.runs}{monitored_resource=\"cloud_run_revision\",function=\"Reconcile\"}[15m])"
      says     = "`reconcile` did not get through its models for half an hour: what dies half-way stays so."
    }
    "Metrics are not collected" = {
      severity = "WARNING"
      duration = "5400s"
      query    = "absent_over_time(${local.runs}{monitored_resource=\"cloud_run_revision\",function=\"CollectMetrics\",message=\"step done\"}[150m])"
      says     = "`collect_metrics` did not succeed for four hours: the dashboard's serving metrics stop there."
    }
  }
  runs = "logging_googleapis_com:user_${google_logging_metric.count["scheduled_runs"].name}"

  # --- Objectives that are missed too fast: slo.tf has the queries. ------------------------------------
  query_alerts = merge(local.burn_alerts, local.absence_alerts, length(var.models) == 0 ? {} : {
    "Instances are at their maximum" = {
      severity = "WARNING"
      duration = "600s"
      query    = local.instances_at_most
      says     = "A model runs as many instances as it may. More load makes requests wait, then fail."
    }
  })

  alerts = merge([
    for kind, rows in {
      log = local.log_alerts, metric = local.metric_alerts, query = local.query_alerts
    } : { for title, row in rows : title => merge(row, { kind = kind }) }
  ]...)

  # Models by how many instances they may have: one comparison for all that share it.
  instances_at_most = join(" or ", [
    for most in distinct([for model in var.models : model.max_instances]) :
    "sum by (service_name) (run_googleapis_com:container_instance_count{monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-(${join("|", [for id, model in var.models : id if model.max_instances == most])})\"}) >= ${most}"
  ])
}

resource "google_monitoring_alert_policy" "alert" {
  for_each = local.alerts

  display_name          = "Turnout: ${each.key}"
  severity              = each.value.severity
  combiner              = "OR"
  notification_channels = local.channels[each.value.severity]
  user_labels           = local.labels

  conditions {
    display_name = each.key
    dynamic "condition_matched_log" {
      for_each = each.value.kind == "log" ? [each.value] : []
      content {
        filter           = startswith(condition_matched_log.value.filter, "resource.type") ? condition_matched_log.value.filter : "${local.from_cloud_run} AND (${condition_matched_log.value.filter})"
        label_extractors = condition_matched_log.value.labels
      }
    }
    dynamic "condition_threshold" {
      for_each = each.value.kind == "metric" ? [each.value] : []
      content {
        filter          = condition_threshold.value.filter
        duration        = "0s"
        comparison      = can(condition_threshold.value.under) ? "COMPARISON_LT" : "COMPARISON_GT"
        threshold_value = try(condition_threshold.value.under, condition_threshold.value.over)
        aggregations {
          alignment_period     = condition_threshold.value.period
          per_series_aligner   = condition_threshold.value.aligner
          cross_series_reducer = condition_threshold.value.reducer
          group_by_fields      = condition_threshold.value.by
        }
        trigger {
          count = 1
        }
      }
    }
    dynamic "condition_prometheus_query_language" {
      for_each = each.value.kind == "query" ? [each.value] : []
      content {
        query               = condition_prometheus_query_language.value.query
        duration            = condition_prometheus_query_language.value.duration
        evaluation_interval = "60s"
        # A new project has no requests yet, and a metric without any does not exist.
        disable_metric_validation = true
      }
    }
  }
  alert_strategy {
    # A line in a log is over at once; what is measured ends by itself, or when nothing more is heard of it.
    auto_close = each.value.kind == "log" ? "3600s" : "1800s"
    dynamic "notification_rate_limit" {
      for_each = each.value.kind == "log" ? [try(each.value.every, each.value.severity == "CRITICAL" ? "300s" : "1800s")] : []
      content {
        period = notification_rate_limit.value
      }
    }
  }
  documentation {
    subject   = "Turnout: ${each.key}"
    content   = "${each.value.says}\n\nWhat to do: ${var.runbook_url}#${replace(lower(each.key), " ", "-")}"
    mime_type = "text/markdown"
  }

  # With the schedule before it, what has to run has begun to when its absence is first looked for.
  depends_on = [google_project_service.api, google_logging_metric.count, google_cloud_scheduler_job.schedule]
}
