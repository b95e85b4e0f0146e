# People are told when the project costs more than `budget` a month; nothing is switched off.

locals {
  # Budgets write to e-mail channels only, and to five at most.
  budget_channels = slice(
    values(google_monitoring_notification_channel.email)[*].id, 0, min(5, length(var.alert_emails)),
  )
}

resource "google_billing_budget" "project" {
  count = var.billing_account == "" ? 0 : 1

  billing_account = var.billing_account
  display_name    = "Turnout in ${var.project}"

  budget_filter {
    projects        = ["projects/${data.google_project.this.number}"]
    calendar_period = "MONTH"
  }
  amount {
    specified_amount {
      # No currency_code: the billing account's own.
      units = tostring(var.budget)
    }
  }
  dynamic "threshold_rules" {
    for_each = {
      "half"     = { part = 0.5, basis = "CURRENT_SPEND" }
      "most"     = { part = 0.9, basis = "CURRENT_SPEND" }
      "all"      = { part = 1.0, basis = "CURRENT_SPEND" }
      "forecast" = { part = 1.0, basis = "FORECASTED_SPEND" }
    }
    content {
      threshold_percent = threshold_rules.value.part
      spend_basis       = threshold_rules.value.basis
    }
  }
  # The billing account's own administrators are told as well.
  dynamic "all_updates_rule" {
    for_each = length(var.alert_emails) == 0 ? [] : [local.budget_channels]
    content {
      monitoring_notification_channels = all_updates_rule.value
    }
  }

  depends_on = [google_project_service.api]
}
