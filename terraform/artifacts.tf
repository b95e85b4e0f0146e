# Serving images: a tag never becomes another image, and the last fifty stay, so that a version that is
# brought back finds the image that it ran with.
resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:Google's own keys; a key of one's own is one more thing that can be lost
  repository_id = "turnout"
  location      = var.region
  format        = "DOCKER"
  description   = "Serving images, one for every model and version"

  docker_config {
    immutable_tags = true
  }
  cleanup_policies {
    id     = "keep-the-last"
    action = "KEEP"
    most_recent_versions {
      keep_count = 50
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "31536000s" # a year
    }
  }

  depends_on = [google_project_service.api]
}

# What Cloud Functions builds from the bundle. Cloud Run keeps a copy of every image that it runs.
resource "google_artifact_registry_repository" "functions" {
  #checkov:skip=CKV_GCP_84:Google's own keys; a key of one's own is one more thing that can be lost
  repository_id = "turnout-functions"
  location      = var.region
  format        = "DOCKER"
  description   = "The functions' containers, as Cloud Functions builds them"

  cleanup_policies {
    id     = "keep-the-last"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "2592000s" # 30 days
    }
  }

  depends_on = [google_project_service.api]
}
