# What is deleted can be brought back for a week: Cloud Storage's soft delete. Nothing that the pipeline
# writes is ever overwritten, so object versions would keep nothing more.

locals {
  soft_delete_s = 7 * 24 * 3600

  # Training's buckets that are ours to make; the others exist, and are only read.
  created_training_buckets = toset([for name, bucket in local.training_buckets : name if bucket.create])
}

resource "google_storage_bucket" "training" {
  #checkov:skip=CKV_GCP_62:Data access logs are Cloud Audit Logs', for the project to switch on
  #checkov:skip=CKV_GCP_78:Nothing is overwritten here, and what is deleted can be brought back for a week
  for_each = local.created_training_buckets

  name                        = each.key
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = local.soft_delete_s
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  depends_on = [google_project_service.api]
}

# models/MODEL/vN/: copied artifacts and prepared answers. `reconcile` deletes what no policy keeps.
resource "google_storage_bucket" "serving" {
  #checkov:skip=CKV_GCP_62:Data access logs are Cloud Audit Logs', for the project to switch on
  #checkov:skip=CKV_GCP_78:Nothing is overwritten here, and what is deleted can be brought back for a week
  name                        = local.serving_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  soft_delete_policy {
    retention_duration_seconds = local.soft_delete_s
  }
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_storage_bucket" "source" {
  #checkov:skip=CKV_GCP_62:Data access logs are Cloud Audit Logs', for the project to switch on
  #checkov:skip=CKV_GCP_78:Nothing is overwritten here, and what is deleted can be brought back for a week
  name                        = "${var.project}-turnout-source"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true # a bundle can be built again from the commit

  soft_delete_policy {
    retention_duration_seconds = local.soft_delete_s
  }

  depends_on = [google_project_service.api]
}

# Its name carries the content's hash, so another bundle is another object, and the functions are built
# anew exactly then.
resource "google_storage_bucket_object" "bundle" {
  name         = "functions/${basename(var.bundle)}"
  bucket       = google_storage_bucket.source.name
  source       = var.bundle
  content_type = "application/zip"

  lifecycle {
    create_before_destroy = true
  }
}
