locals {
  schedules = {
    collect_metrics = "7 * * * *"
    reconcile       = "*/3 * * * *"
  }
}

# A job that still runs is not started again; an attempt may last as long as the function.
resource "google_cloud_scheduler_job" "schedule" {
  for_each = local.schedules

  name             = replace(each.key, "_", "-")
  region           = var.region
  description      = local.entry_points[each.key].about
  schedule         = each.value
  time_zone        = "Etc/UTC"
  attempt_deadline = "${local.entry_points[each.key].timeout_s}s"

  http_target {
    http_method = "POST"
    # Cloud Run's own URL: to it Cloud Scheduler counts as internal traffic.
    uri = google_cloudfunctions2_function.part[each.key].service_config[0].uri
    oidc_token {
      service_account_email = local.emails["scheduler"]
      audience              = google_cloudfunctions2_function.part[each.key].service_config[0].uri
    }
  }
  # The next run is the retry.
  retry_config {
    retry_count = 0
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}
