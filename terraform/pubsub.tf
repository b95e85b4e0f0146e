# The way in, and the news. Push subscriptions of our own instead of Eventarc triggers: see
# docs/decisions/0001-push-subscription.md.

locals {
  topics = {
    (local.training_topic) = {
      schema      = "${path.module}/../shared/training_completed.proto"
      message     = "TrainingCompleted"
      function    = "on_training_completed"
      trigger     = "training_trigger"
      deliveries  = 50
      description = "Training runs that are done"
    }
    (local.events_topic) = {
      schema   = "${path.module}/../shared/deployment_event.proto"
      message  = "DeploymentEvent"
      function = "on_deployment_event"
      trigger  = "chat_trigger"
      # News that cannot be told for an hour or so is no news any more.
      deliveries  = 15
      description = "What happened to deployments"
    }
  }

  # Google's own account that delivers: it publishes dead letters and takes them off the subscription.
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_schema" "topic" {
  for_each = local.topics

  name       = each.key
  type       = "PROTOCOL_BUFFER"
  definition = file(each.value.schema)

  depends_on = [google_project_service.api]
}

resource "google_pubsub_topic" "topic" {
  #checkov:skip=CKV_GCP_83:Google's own keys; a key of one's own is one more thing that can be lost
  for_each = local.topics

  name = each.key
  # Long enough to play a week again, should a subscription be lost.
  message_retention_duration = "604800s"

  schema_settings {
    schema   = google_pubsub_schema.topic[each.key].id
    encoding = "JSON"
  }
  message_storage_policy {
    allowed_persistence_regions = local.regions
  }
}

resource "google_pubsub_topic" "dead_letters" {
  #checkov:skip=CKV_GCP_83:Google's own keys; a key of one's own is one more thing that can be lost
  for_each = local.topics

  name = "${each.key}-dead-letter"

  message_storage_policy {
    allowed_persistence_regions = local.regions
  }

  depends_on = [google_project_service.api]
}

# Without a subscription of its own a dead-letter topic loses what it is sent.
resource "google_pubsub_subscription" "dead_letters" {
  for_each = local.topics

  name                       = google_pubsub_topic.dead_letters[each.key].name
  topic                      = google_pubsub_topic.dead_letters[each.key].name
  message_retention_duration = "2678400s" # 31 days, the longest there is
  ack_deadline_seconds       = 60

  expiration_policy {
    ttl = "" # never, however long nobody looks
  }
}

resource "google_pubsub_subscription" "push" {
  for_each = local.topics

  name                       = each.key
  topic                      = google_pubsub_topic.topic[each.key].name
  message_retention_duration = "604800s"
  # A message comes again while its call still runs, unless Pub/Sub waits longer than the function may take.
  ack_deadline_seconds = local.entry_points[each.value.function].timeout_s + 30

  push_config {
    # Cloud Run's own URL: to it Pub/Sub counts as internal traffic.
    push_endpoint = google_cloudfunctions2_function.part[each.value.function].service_config[0].uri
    oidc_token {
      service_account_email = local.emails[each.value.trigger]
      audience              = google_cloudfunctions2_function.part[each.value.function].service_config[0].uri
    }
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
  dead_letter_policy {
    dead_letter_topic     = "projects/${var.project}/topics/${google_pubsub_topic.dead_letters[each.key].name}"
    max_delivery_attempts = each.value.deliveries
  }
  expiration_policy {
    ttl = ""
  }

  # The first push must be let in.
  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

resource "google_pubsub_topic_iam_member" "dead_letters" {
  for_each = local.topics

  topic  = google_pubsub_topic.dead_letters[each.key].name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  for_each = local.topics

  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}
