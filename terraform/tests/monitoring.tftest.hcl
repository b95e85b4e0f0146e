# Alerts, objectives and what surrounds the dashboard. tests/terraform/test_monitoring.py reads what
# the run `everything` makes as well.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_cloudfunctions2_function" {
    defaults = {
      service_config = {
        service = "projects/shop-production/locations/europe-central2/services/the-function"
        uri     = "https://the-function-x.a.run.app"
      }
    }
  }
}

variables {
  project          = "shop-production"
  serving_image    = "europe-central2-docker.pkg.dev/shop-production/turnout/serving@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  bundle           = "../build/bundle-0123456789ab.zip"
  dashboard_secret = "an-example-of-thirty-two-letters"
  models = {
    movies = { max_instances = 10 }
    books  = { max_instances = 10 }
    songs  = { max_instances = 3 }
  }
}

run "everything" {
  variables {
    alert_emails           = ["ops@example.com"]
    alert_chat_spaces      = ["spaces/AAAA1234"]
    alert_page_channels    = ["projects/shop-production/notificationChannels/1"]
    runbook_url            = "https://example.com/runbook.md"
    billing_account        = "012345-6789AB-CDEF01"
    dashboard_domain       = "turnout.example.com"
    dashboard_iap_audience = "/projects/123456789012/global/backendServices/42"
    dashboard_access       = ["group:ml@example.com"]
  }

  assert {
    condition     = length(google_billing_budget.project) == 1 && length(google_compute_global_forwarding_rule.dashboard) == 1
    error_message = "a billing account makes a budget, a domain makes a load balancer"
  }
  assert {
    condition     = google_compute_backend_service.dashboard[0].iap[0].enabled
    error_message = "nobody reaches the dashboard past Identity-Aware Proxy"
  }
  assert {
    condition     = local.dashboard_ingress == "ALLOW_INTERNAL_AND_GCLB" && local.dashboard_environment_behind_iap.TURNOUT_IDENTITY == "iap"
    error_message = "behind the load balancer the function has no other way in, and believes the proxy only"
  }
  assert {
    condition     = toset(keys(google_monitoring_slo.availability)) == toset(["books", "movies", "songs"]) && google_monitoring_slo.availability["movies"].goal == 0.999
    error_message = "every model has its objectives"
  }
  assert {
    condition     = contains(keys(google_monitoring_alert_policy.alert), "Certificate is about to expire")
    error_message = "a certificate is watched where there is one"
  }
}

run "without_a_domain_nothing_is_public" {
  command = plan

  variables {
    uptime_checks = false
  }

  assert {
    condition = alltrue([for found in [
      google_compute_global_address.dashboard, google_compute_managed_ssl_certificate.dashboard,
      google_compute_region_network_endpoint_group.dashboard, google_compute_security_policy.dashboard,
      google_compute_backend_service.dashboard, google_compute_url_map.dashboard,
      google_compute_ssl_policy.dashboard, google_compute_target_https_proxy.dashboard,
      google_compute_global_forwarding_rule.dashboard, google_cloud_run_v2_service_iam_member.iap_calls_dashboard,
      google_billing_budget.project, google_monitoring_notification_channel.email, google_monitoring_uptime_check_config.host,
    ] : length(found) == 0])
    error_message = "no load balancer, budget, channel or check that nobody asked for"
  }
  assert {
    condition     = length(local.dashboard_environment_behind_iap) == 0 && local.dashboard_ingress == "ALLOW_ALL"
    error_message = "without a domain Google's IAM guards the function"
  }
  assert {
    condition     = length(setintersection(keys(google_monitoring_alert_policy.alert), ["Certificate is about to expire", "Health is not answered"])) == 0
    error_message = "what is not asked for cannot fail"
  }
}

run "a_domain_is_asked_once_its_proxy_is_known" {
  command = plan

  variables {
    uptime_checks    = false
    dashboard_domain = "turnout.example.com"
  }

  assert {
    condition     = length(google_monitoring_uptime_check_config.host) == 0 && length(setintersection(keys(google_monitoring_alert_policy.alert), ["Certificate is about to expire", "Health is not answered"])) == 0
    error_message = "the first apply has no certificate yet"
  }
}

run "objectives_that_no_burn_rate_could_break_are_refused" {
  command = plan

  variables {
    objectives = { latency = 0.9 }
  }
  expect_failures = [var.objectives]
}

run "no_model_yet" {
  command = plan

  variables {
    models = {}
  }

  assert {
    condition     = length(google_monitoring_slo.availability) == 0 && !contains(keys(google_monitoring_alert_policy.alert), "Instances are at their maximum")
    error_message = "an installation without models is possible"
  }
}
