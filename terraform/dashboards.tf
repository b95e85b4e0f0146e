# One page in Cloud Monitoring: predictions, deployments, the pipeline's parts, what costs. Charts are
# rows below and lie three to a line; the layout is computed from them.

locals {
  # Filters that several charts share.
  predictions = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=monitoring.regex.full_match(\"model-serving-.*\")"
  pipeline    = "resource.type=\"cloud_run_revision\" AND ${local.of_functions}"
  counted     = { for name in keys(local.log_metrics) : name => "metric.type=\"logging.googleapis.com/user/turnout_${name}\" AND resource.type=\"cloud_run_revision\"" }
  measured    = { for name in keys(local.log_distributions) : name => "metric.type=\"logging.googleapis.com/user/turnout_${name}\" AND resource.type=\"cloud_run_revision\"" }
  by_version  = ["resource.labels.service_name", "resource.labels.revision_name"]

  charts = [
    {
      section = "Predictions"
      rows = [
        { title = "Requests a second, by version", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_count\" AND ${local.predictions}", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = local.by_version },
        ] },
        { title = "Share of the traffic, by version (%)", plot = "STACKED_AREA", sets = [
          { query = "100 * sum by (service_name, revision_name) (rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-.+\"}[5m])) / on (service_name) group_left () sum by (service_name) (rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-.+\"}[5m]))" },
        ] },
        { title = "Failed requests, by version (%)", sets = [
          { query = "100 * sum by (service_name, revision_name) (rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-.+\",response_code_class=\"5xx\"}[5m])) / sum by (service_name, revision_name) (rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=~\"model-serving-.+\",response_code_class!=\"4xx\"}[5m]))" },
        ] },
        { title = "Latency, by version: median (ms)", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.predictions}", aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_50", by = local.by_version },
        ] },
        { title = "Latency, by version: 95 % (ms)", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.predictions}", aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", by = local.by_version },
        ] },
        { title = "Latency, by version: 99 % (ms)", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.predictions}", aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_99", by = local.by_version },
        ] },
        { title = "Error budget left, by model (parts of 1)", sets = [
          # Ten models: a chart with more lines says nothing.
          for id in slice(sort(keys(var.models)), 0, min(10, length(var.models))) :
          { filter = "select_slo_budget_fraction(\"projects/${var.project}/services/prediction-${id}/serviceLevelObjectives/availability\")", aligner = "ALIGN_NEXT_OLDER", reducer = "REDUCE_MEAN", by = [], legend = id }
        ] },
        { title = "Faults that containers tell of", plot = "STACKED_BAR", sets = [
          { filter = local.counted["serving_faults"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.fault"], period = "3600s" },
        ] },
        { title = "Answers that are no prediction, by code", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_count\" AND ${local.predictions} AND metric.labels.response_code_class!=\"2xx\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.labels.service_name", "metric.labels.response_code"] },
        ] },
      ]
    },
    {
      section = "Deployments"
      rows = [
        { title = "Rollouts that ended, by outcome", plot = "STACKED_BAR", sets = [
          { filter = local.counted["rollouts"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.outcome"], period = "3600s" },
        ] },
        { title = "Rollouts that failed, by code", plot = "STACKED_BAR", sets = [
          { filter = "${local.counted["rollouts"]} AND metric.labels.outcome=\"failed\"", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.code"], period = "3600s" },
        ] },
        { title = "From the message to all of the traffic: 95 % (s)", sets = [
          { filter = local.measured["rollout_seconds"], aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", by = ["metric.labels.model_id"], period = "3600s" },
        ] },
        { title = "Steps: median (s)", sets = [
          { filter = local.measured["step_seconds"], aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_50", by = ["metric.labels.step"], period = "3600s" },
        ] },
        { title = "Steps: 95 % (s)", sets = [
          { filter = local.measured["step_seconds"], aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", by = ["metric.labels.step"], period = "3600s" },
        ] },
        { title = "Canary verdicts", plot = "STACKED_BAR", sets = [
          { filter = local.counted["canary_verdicts"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.verdict"], period = "3600s" },
        ] },
        { title = "What happened to deployments", plot = "STACKED_BAR", sets = [
          { filter = local.counted["transitions"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.action"], period = "3600s" },
        ] },
        { title = "Messages, by what became of them", plot = "STACKED_BAR", sets = [
          { filter = local.counted["messages"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.outcome"], period = "3600s" },
        ] },
        { title = "Tries of steps that failed, by code", plot = "STACKED_BAR", sets = [
          { filter = local.counted["step_failures"], aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.function", "metric.labels.code"], period = "3600s" },
        ] },
      ]
    },
    {
      section = "The pipeline's parts"
      rows = [
        { title = "Calls of functions, by answer", plot = "STACKED_BAR", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_count\" AND ${local.pipeline}", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["resource.labels.service_name", "metric.labels.response_code_class"], period = "300s" },
        ] },
        { title = "Calls of functions: 95 % (ms)", sets = [
          { filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.pipeline}", aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", by = ["resource.labels.service_name"], period = "300s" },
        ] },
        { title = "Workflow executions that ended, by state", plot = "STACKED_BAR", sets = [
          { filter = "metric.type=\"workflows.googleapis.com/finished_execution_count\" AND resource.type=\"workflows.googleapis.com/Workflow\"", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["metric.labels.status"], period = "3600s" },
        ] },
        { title = "Oldest message that waits (s)", sets = [
          { filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.type=\"pubsub_subscription\"", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = ["resource.labels.subscription_id"] },
        ] },
        { title = "Messages that wait, dead letters among them", sets = [
          { filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND resource.type=\"pubsub_subscription\"", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = ["resource.labels.subscription_id"] },
        ] },
        { title = "Google APIs: calls that were refused or failed", plot = "STACKED_BAR", sets = [
          { filter = "metric.type=\"serviceruntime.googleapis.com/api/request_count\" AND resource.type=\"consumed_api\" AND metric.labels.response_code_class!=\"2xx\"", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["resource.labels.service", "metric.labels.response_code"], period = "300s" },
        ] },
      ]
    },
    {
      section = "What costs"
      rows = [
        { title = "Instances", sets = [
          { filter = "metric.type=\"run.googleapis.com/container/instance_count\" AND resource.type=\"cloud_run_revision\"", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["resource.labels.service_name"] },
        ] },
        { title = "Instance time that is billed (s a second)", plot = "STACKED_AREA", sets = [
          { filter = "metric.type=\"run.googleapis.com/container/billable_instance_time\" AND resource.type=\"cloud_run_revision\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.labels.service_name"], period = "300s" },
        ] },
        { title = "Preparations that ended", plot = "STACKED_BAR", sets = [
          { filter = "metric.type=\"run.googleapis.com/job/completed_execution_count\" AND resource.type=\"cloud_run_job\"", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["resource.labels.job_name", "metric.labels.result"], period = "3600s" },
        ] },
        { title = "Stored in buckets (bytes)", plot = "STACKED_AREA", sets = [
          { filter = "metric.type=\"storage.googleapis.com/storage/v2/total_bytes\" AND resource.type=\"gcs_bucket\"", aligner = "ALIGN_MEAN", reducer = "REDUCE_SUM", by = ["resource.labels.bucket_name"], period = "3600s" },
        ] },
        { title = "Calls of Google APIs a second, by service", sets = [
          { filter = "metric.type=\"serviceruntime.googleapis.com/api/request_count\" AND resource.type=\"consumed_api\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.labels.service"] },
        ] },
        { title = "Logs (bytes an hour)", plot = "STACKED_BAR", sets = [
          { filter = "metric.type=\"logging.googleapis.com/byte_count\" AND resource.type=\"cloud_run_revision\"", aligner = "ALIGN_SUM", reducer = "REDUCE_SUM", by = ["resource.labels.service_name"], period = "3600s" },
        ] },
      ]
    },
  ]

  # --- The layout: a heading of 4 over lines of three charts, 16 wide and high each, of 48 columns. ------
  heights = [for section in local.charts : 4 + 16 * ceil(length(section.rows) / 3)]
  tiles = flatten([for number, section in local.charts : concat(
    [{
      xPos   = 0, yPos = sum(concat([0], slice(local.heights, 0, number))), width = 48, height = 4
      widget = { text = { content = "## ${section.section}", format = "MARKDOWN" } }
    }],
    [for place, row in section.rows : {
      xPos   = 16 * (place % 3)
      yPos   = sum(concat([4], slice(local.heights, 0, number))) + 16 * floor(place / 3)
      width  = 16
      height = 16
      widget = {
        title = row.title
        xyChart = {
          dataSets = [for set in row.sets : {
            plotType       = try(row.plot, "LINE")
            targetAxis     = "Y1"
            legendTemplate = try(set.legend, "")
            timeSeriesQuery = jsondecode(can(set.query) ? jsonencode({ prometheusQuery = set.query }) : jsonencode({
              timeSeriesFilter = {
                filter = set.filter
                aggregation = {
                  alignmentPeriod    = try(set.period, "60s")
                  perSeriesAligner   = set.aligner
                  crossSeriesReducer = set.reducer
                  groupByFields      = set.by
                }
              }
            }))
          }]
        }
      }
    }],
  )])
}

resource "google_monitoring_dashboard" "turnout" {
  dashboard_json = jsonencode({
    displayName = "Turnout"
    labels      = { turnout = "" }
    mosaicLayout = {
      columns = 48
      tiles   = local.tiles
    }
  })

  depends_on = [google_logging_metric.count, google_logging_metric.distribution, google_monitoring_slo.availability]
}
