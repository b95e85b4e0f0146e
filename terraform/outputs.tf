output "functions" {
  description = "Where each function answers by its name."
  value       = { for name in keys(local.entry_points) : name => "${local.functions_url}/${name}" }
}

output "dashboard_url" {
  description = "The dashboard; without a domain it is private, and `turnout open` is the way to it."
  value       = local.dashboard_url
}

output "models" {
  description = "Each model's prediction API."
  value       = { for id, service in google_cloud_run_v2_service.model : id => service.uri }
}

output "topic" {
  description = "Where training says that a run is done."
  value       = google_pubsub_topic.topic[local.training_topic].id
}

output "events_topic" {
  description = "Where the pipeline says what happened."
  value       = google_pubsub_topic.topic[local.events_topic].id
}

output "training_buckets" {
  description = "Where training writes its artifacts."
  value       = sort(keys(local.training_buckets))
}

output "serving_bucket" {
  description = "Where the pipeline keeps what it serves."
  value       = google_storage_bucket.serving.name
}

output "images" {
  description = "Where serving images are pushed."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

locals {
  example_message = {
    schema_version = 1
    model_id       = "MODEL"
    run_number     = 1
    artifact_uri   = "gs://${sort(keys(local.training_buckets))[0]}/MODEL/run-1"
    metrics        = { recall_at_100 = 0.4 }
    completed_at   = "2026-01-01T00:00:00Z"
  }
}

output "publish" {
  description = "Publishes a training run by hand."
  value       = "gcloud pubsub topics publish ${local.training_topic} --project ${var.project} --message '${jsonencode(local.example_message)}'"
}

output "environment" {
  description = "What the command line reads to reach this installation: export each of them."
  value       = { for name, value in local.settings : name => value if startswith(name, "TURNOUT_") }
}
