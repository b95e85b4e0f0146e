terraform {
  # 1.11: a value that is written and never kept (secrets.tf).
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
  }

  # Which bucket holds the state is said at init: terraform init -backend-config=...
  backend "gcs" {}
}

provider "google" {
  project        = var.project
  region         = var.region
  default_labels = local.labels

  # Budgets and a few other APIs take their quota from a project, not from the caller.
  billing_project       = var.project
  user_project_override = true
}
