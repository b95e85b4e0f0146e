# The state. Clients read and write the database `(default)`.

locals {
  indexes = {
    for index in jsondecode(file("${path.module}/firestore.indexes.json")).indexes :
    join("-", concat([index.collectionGroup], [for field in index.fields : field.fieldPath])) => index
  }

  # Each document of these says in `expires_at` when Firestore may delete it.
  expiring = toset(["chat_posts", "customer_sketches", "idempotency", "rate_limits"])
}

resource "google_firestore_database" "state" {
  name                              = "(default)"
  location_id                       = var.firestore_location == "" ? var.region : var.firestore_location
  type                              = "FIRESTORE_NATIVE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = var.deletion_protection ? "PREVENT" : "DELETE"

  depends_on = [google_project_service.api]
}

resource "google_firestore_index" "query" {
  for_each = local.indexes

  database    = google_firestore_database.state.name
  collection  = each.value.collectionGroup
  query_scope = each.value.queryScope

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path = fields.value.fieldPath
      order      = fields.value.order
    }
  }
}

# Nobody asks for documents by the end of their life, so it is not indexed either.
resource "google_firestore_field" "expires_at" {
  for_each = local.expiring

  database   = google_firestore_database.state.name
  collection = each.key
  field      = "expires_at"

  ttl_config {}
  index_config {}
}

# 4 KiB of registers each, written every minute: nobody asks for them by value.
resource "google_firestore_field" "sketch" {
  database   = google_firestore_database.state.name
  collection = "customer_sketches"
  field      = "sketch"

  index_config {}
}

resource "google_firestore_backup_schedule" "daily" {
  database  = google_firestore_database.state.name
  retention = "604800s" # 7 days

  daily_recurrence {}
}

resource "google_firestore_backup_schedule" "weekly" {
  database  = google_firestore_database.state.name
  retention = "8467200s" # 14 weeks, the longest there is

  weekly_recurrence {
    day = "SUNDAY"
  }
}
