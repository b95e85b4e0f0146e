locals {
  # Names that the code reads, too: shared/config.py.
  training_topic = "training-completed"
  events_topic   = "deployment-events"
  workflow       = "deploy-model"

  labels  = merge({ application = "turnout", environment = var.environment }, var.labels)
  regions = toset(length(var.regions) == 0 ? [var.region] : var.regions)

  # Without any, training has the bucket that the code expects where nothing else is said.
  training_buckets = length(var.training_buckets) == 0 ? {
    "${var.project}-training" = { create = true }
  } : var.training_buckets
  serving_bucket = "${var.project}-serving"

  # Every function answers below it by its own name, which is the name of its entry point. Cloud Run's
  # own URL (service_config[0].uri) is another one for each.
  functions_url = "https://${var.region}-${var.project}.cloudfunctions.net"
  dashboard_url = var.dashboard_domain == "" ? "${local.functions_url}/dashboard" : "https://${var.dashboard_domain}"
}

data "google_project" "this" {
  project_id = var.project
}
