# What the parts have to keep to themselves.
#
# The dashboard's secret is made anew by whoever applies, and goes through: it is in neither the plan nor
# Terraform's state, and it is only written where there is another `dashboard_secret_version`. The webhook's
# URL is yours:
#   printf %s "$URL" | gcloud secrets versions add chat-webhook --data-file=-

locals {
  # Secret => the function that reads it, as which variable, and in which version; "" is not at all.
  secrets = {
    dashboard-secret = {
      function = "dashboard"
      variable = "TURNOUT_SECRET"
      version  = google_secret_manager_secret_version.dashboard.version
    }
    chat-webhook = {
      function = "on_deployment_event"
      variable = "TURNOUT_CHAT_WEBHOOK"
      version  = var.chat_webhook_secret
    }
  }
}

resource "google_secret_manager_secret" "secret" {
  for_each = toset(["dashboard-secret", "chat-webhook"])

  secret_id           = each.key
  deletion_protection = var.deletion_protection

  replication {
    user_managed {
      dynamic "replicas" {
        for_each = local.regions
        content {
          location = replicas.value
        }
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_version" "dashboard" {
  secret                 = google_secret_manager_secret.secret["dashboard-secret"].id
  secret_data_wo         = var.dashboard_secret
  secret_data_wo_version = var.dashboard_secret_version

  lifecycle {
    # The function goes over to the new one before the old one is destroyed.
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = local.secrets

  secret_id = google_secret_manager_secret.secret[each.key].id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${local.emails[each.value.function]}"
}
