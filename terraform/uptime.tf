# Asked from outside, every five minutes, from all of Google's six places: the health of each prediction
# service, and where the dashboard has a domain, whether Identity-Aware Proxy answers there.

locals {
  # A project has 100 checks; with more models the first ones by name are asked.
  asked_models = var.uptime_checks ? slice(sort(keys(var.models)), 0, min(90, length(var.models))) : []
  uptime_hosts = merge(
    { for id in local.asked_models : "model-${id}" => {
      host = trimprefix(google_cloud_run_v2_service.model[id].uri, "https://")
      path = "/health"
      # The empty v0 answers 503 and says why; so does a container without a model, which is not well.
      statuses = [200, 503]
      body     = ".*(\"status\":\"(healthy|loading)\"|no model is deployed yet).*"
    } },
    # From the second apply on: before it the domain's certificate is not there yet.
    { for domain in compact([var.dashboard_iap_audience == "" ? "" : var.dashboard_domain]) : "dashboard" => {
      host = domain
      path = "/"
      # Google's sign-in, or the way there: load balancer, certificate and proxy are well.
      statuses = [200, 302, 401]
      body     = ""
    } },
  )
}

resource "google_monitoring_uptime_check_config" "host" {
  for_each = local.uptime_hosts

  display_name = "Turnout: ${each.key}"
  period       = "300s"
  timeout      = "10s"
  user_labels  = local.labels

  http_check {
    path         = each.value.path
    port         = 443
    use_ssl      = true
    validate_ssl = true
    dynamic "accepted_response_status_codes" {
      for_each = each.value.statuses
      content {
        status_value = accepted_response_status_codes.value
      }
    }
  }
  dynamic "content_matchers" {
    for_each = compact([each.value.body])
    content {
      content = content_matchers.value
      matcher = "MATCHES_REGEX"
    }
  }
  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project
      host       = each.value.host
    }
  }

  depends_on = [google_project_service.api]
}
