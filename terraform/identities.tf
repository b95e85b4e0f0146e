# One service account a part, so that each is given what that part does and nothing else. Who may do
# what is in iam.tf.

locals {
  parts = merge(
    { for name, function in local.entry_points : name => "Runs the function ${name}" },
    {
      workflow         = "Runs the workflow ${local.workflow}: calls its steps"
      scheduler        = "Calls the scheduled functions"
      training_trigger = "Pushes ${local.training_topic} to on_training_completed"
      chat_trigger     = "Pushes ${local.events_topic} to on_deployment_event"
      prepare          = "Runs the jobs that load a model and prepare its answers"
      build            = "Builds the functions' containers and the serving image"
    },
    { for name in local.serving_accounts : name => "Runs models' revisions" },
  )

  # Made of what is known before they exist, so that a plan says who is given what.
  emails = {
    for part, account in google_service_account.part :
    part => "${account.account_id}@${account.project}.iam.gserviceaccount.com"
  }
}

resource "google_service_account" "part" {
  for_each = local.parts

  project      = var.project
  account_id   = replace(each.key, "_", "-")
  display_name = replace(each.key, "_", " ")
  description  = each.value

  lifecycle {
    precondition {
      condition     = !contains(local.serving_accounts, each.key) || !contains(keys(local.part_roles), replace(each.key, "-", "_"))
      error_message = "models: the service_account ${each.key} is another part's identity; name another."
    }
  }
  depends_on = [google_project_service.api]
}
