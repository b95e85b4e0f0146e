# The very file that the tests run. A new version of it takes effect for executions that start after it.
resource "google_workflows_workflow" "deploy_model" {
  name            = local.workflow
  region          = var.region
  description     = "A deployment: order, waits, retries and the way back"
  service_account = local.emails["workflow"]
  source_contents = file("${path.module}/../workflows/deploy_model.yaml")
  call_log_level  = "LOG_ERRORS_ONLY"

  user_env_vars = {
    FUNCTIONS_URL = local.functions_url
  }
  deletion_protection = var.deletion_protection

  # A new workflow calls new functions; old executions call them too, which new functions take.
  depends_on = [google_cloudfunctions2_function.part, google_project_service.api]
}
