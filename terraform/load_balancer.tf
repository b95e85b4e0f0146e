# The dashboard under a name of its own, behind Identity-Aware Proxy, where `dashboard_domain` says so;
# nothing at all otherwise. The domain's A record is the output `dashboard_address`.
#
# Two applies: Google makes the backend's id, which the proxy signs for, with the backend. The first one
# ends with the output `dashboard_iap_audience`; as the variable of that name it goes into the second.
# In between the dashboard refuses everybody. Step by step: docs/how-to/dashboard-on-a-domain.md.

locals {
  behind_iap = var.dashboard_domain != ""

  # What the function `dashboard` is told beside the rest (functions.tf).
  dashboard_environment_behind_iap = local.behind_iap ? {
    TURNOUT_IDENTITY     = "iap"
    TURNOUT_IAP_AUDIENCE = var.dashboard_iap_audience
    # The load balancer appends two addresses to X-Forwarded-For: the caller's and its own.
    TURNOUT_FORWARDED_HOPS = "2"
  } : {}
  dashboard_ingress = local.behind_iap ? "ALLOW_INTERNAL_AND_GCLB" : "ALLOW_ALL"

  # Google makes it on request only: gcloud beta services identity create --service=iap.googleapis.com
  iap_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-iap.iam.gserviceaccount.com"
}

resource "google_compute_global_address" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name       = "turnout-dashboard"
  depends_on = [google_project_service.api]
}

resource "google_compute_managed_ssl_certificate" "dashboard" {
  count = local.behind_iap ? 1 : 0

  # By its domain: a certificate cannot change, and the next one must be there before this one goes.
  name = "turnout-dashboard-${substr(sha256(var.dashboard_domain), 0, 8)}"
  managed {
    domains = [var.dashboard_domain]
  }

  lifecycle {
    create_before_destroy = true
  }
  depends_on = [google_project_service.api]
}

resource "google_compute_region_network_endpoint_group" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name                  = "turnout-dashboard"
  region                = var.region
  network_endpoint_type = "SERVERLESS"
  cloud_run {
    service = google_cloudfunctions2_function.part["dashboard"].name
  }
}

resource "google_compute_security_policy" "dashboard" {
  #checkov:skip=CKV_GCP_73:There is no Java behind it
  count = local.behind_iap ? 1 : 0

  name        = "turnout-dashboard"
  description = "Whoever asks too often has to wait; who may come in at all is Identity-Aware Proxy's."

  rule {
    priority    = 1000
    description = "More than 600 requests a minute from one address"
    action      = "throttle"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = 600
        interval_sec = 60
      }
    }
  }
  rule {
    # Every policy has this rule; it is what the one above leaves over.
    priority    = 2147483647
    description = "Everybody else"
    action      = "allow"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_compute_backend_service" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name                  = "turnout-dashboard"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"
  security_policy       = google_compute_security_policy.dashboard[0].id

  backend {
    group = google_compute_region_network_endpoint_group.dashboard[0].id
  }
  iap {
    enabled = true
  }
  log_config {
    enable      = true
    sample_rate = 1
  }
}

resource "google_compute_url_map" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name            = "turnout-dashboard"
  default_service = google_compute_backend_service.dashboard[0].id
}

resource "google_compute_ssl_policy" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name            = "turnout-dashboard"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
  depends_on      = [google_project_service.api]
}

resource "google_compute_target_https_proxy" "dashboard" {
  count = local.behind_iap ? 1 : 0

  name             = "turnout-dashboard"
  url_map          = google_compute_url_map.dashboard[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.dashboard[0].id]
  ssl_policy       = google_compute_ssl_policy.dashboard[0].id
}

resource "google_compute_global_forwarding_rule" "dashboard" {
  count = local.behind_iap ? 1 : 0

  # Only 443: browsers ask for https by themselves, and nothing is sent in the clear.
  name                  = "turnout-dashboard"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.dashboard[0].id
  port_range            = "443"
  target                = google_compute_target_https_proxy.dashboard[0].id
}

# Identity-Aware Proxy calls the function in everybody's place; who may pass it is the next resource.
resource "google_cloud_run_v2_service_iam_member" "iap_calls_dashboard" {
  count = local.behind_iap ? 1 : 0

  name     = google_compute_region_network_endpoint_group.dashboard[0].cloud_run[0].service
  location = var.region
  role     = "roles/run.invoker"
  member   = local.iap_agent
}

resource "google_iap_web_backend_service_iam_member" "dashboard" {
  for_each = local.behind_iap ? var.dashboard_access : []

  web_backend_service = google_compute_backend_service.dashboard[0].name
  role                = "roles/iap.httpsResourceAccessor"
  member              = each.value
}

output "dashboard_address" {
  description = "The address that the A record of `dashboard_domain` must name; empty without a domain."
  value       = one(google_compute_global_address.dashboard[*].address)
}

output "dashboard_iap_audience" {
  description = "What Identity-Aware Proxy signs for: the variable `dashboard_iap_audience` of the second apply."
  value = one([
    for backend in google_compute_backend_service.dashboard :
    "/projects/${data.google_project.this.number}/global/backendServices/${backend.generated_id}"
  ])
}
