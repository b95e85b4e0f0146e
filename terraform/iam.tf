# Who may do what. `part_roles` is the whole table for the parts' own identities: a role of ours (`custom_roles`)
# by its name, on what `role_scopes` says. Who may call which function is `invokers`.

locals {
  part_roles = {
    abort_deployment      = ["state", "outbox", "news", "traffic", "preparation_end", "workflow_start", "traces"]
    build                 = []
    cancel                = ["state", "outbox", "news", "traffic", "preparation_end", "workflow_start", "workflow_end", "traces"]
    chat_trigger          = []
    check_health          = ["state", "service_reader", "artifacts_reader", "traces"]
    claim_deployment      = ["state", "outbox", "news", "traffic", "workflow_start", "traces"]
    collect_metrics       = ["hours", "metrics", "traces"]
    copy_artifacts        = ["state", "training_reader", "artifacts_writer", "traces"]
    create_revision       = ["state", "traffic", "run_reader", "image_reader", "traces"]
    dashboard             = ["state", "outbox", "news", "traffic", "run_reader", "preparation_end", "workflow_start", "workflow_end", "training_publisher", "training_reader", "artifacts_reader", "traces"]
    finish_deployment     = ["state", "outbox", "news", "service_reader", "workflow_start", "traces"]
    judge_canary          = ["state", "outbox", "news", "metrics", "traces"]
    on_deployment_event   = ["state", "posts", "traces"]
    on_training_completed = ["state", "outbox", "news", "traffic", "workflow_start", "dead_letters", "training_reader", "artifacts_reader", "traces"]
    prepare               = ["artifacts_writer", "traces"]
    prepare_model         = ["state", "preparation", "artifacts_writer", "traces"]
    reconcile             = ["state", "outbox", "news", "traffic", "run_cleaner", "preparation_end", "workflow_start", "workflow_reader", "artifacts_cleaner", "traces"]
    roll_back             = ["state", "outbox", "news", "traffic", "run_reader", "preparation_end", "workflow_start", "workflow_end", "artifacts_reader", "traces"]
    scheduler             = []
    shift_traffic         = ["state", "outbox", "news", "traffic", "traces"]
    training_trigger      = []
    workflow              = ["log_writer"]
  }
  # What runs models' revisions, whatever the models name it.
  serving_roles = ["serving_state", "artifacts_reader", "traces"]

  custom_roles = {
    # Firestore knows no permissions below the database. Transactions need databases.get.
    state = [
      "datastore.databases.get",
      "datastore.entities.create",
      "datastore.entities.get",
      "datastore.entities.update",
    ]
    # Whoever publishes news finds it in the outbox, and takes it out.
    outbox = ["datastore.entities.delete", "datastore.entities.list"]
    # A post that failed is given back.
    posts = ["datastore.entities.delete"]
    hours = [
      "datastore.entities.create",
      "datastore.entities.get",
      "datastore.entities.list",
      "datastore.entities.update",
    ]
    # A container knows a key's digest or nothing: it can neither list keys nor customers.
    serving_state = [
      "datastore.entities.create",
      "datastore.entities.get",
      "datastore.entities.update",
    ]
    news               = ["pubsub.topics.publish"]
    dead_letters       = ["pubsub.topics.publish"]
    training_publisher = ["pubsub.topics.publish"]
    service_reader     = ["run.services.get"]
    traffic            = ["run.services.get", "run.services.update"]
    run_reader         = ["run.revisions.get"]
    run_cleaner        = ["run.revisions.delete", "run.revisions.list"]
    preparation        = ["run.executions.cancel", "run.executions.get", "run.jobs.run", "run.jobs.runWithOverrides"]
    preparation_end    = ["run.executions.cancel"]
    workflow_start     = ["workflows.executions.create"]
    workflow_reader    = ["workflows.executions.get"]
    workflow_end       = ["workflows.executions.cancel"]
    metrics            = ["monitoring.timeSeries.list"]
    log_writer         = ["logging.logEntries.create"]
    traces             = ["telemetry.traces.write"]
    # Without list, an object that is not there is answered 403 instead of 404.
    training_reader   = ["storage.objects.get", "storage.objects.list"]
    artifacts_reader  = ["storage.objects.get", "storage.objects.list"]
    artifacts_writer  = ["storage.objects.create", "storage.objects.get", "storage.objects.list"]
    artifacts_cleaner = ["storage.objects.delete", "storage.objects.list"]
    # Cloud Run asks for it of whoever updates a service, also where only the traffic changes.
    acts_as = ["iam.serviceAccounts.actAs"]
    # Whoever makes a revision must be able to read its image, too.
    # https://docs.cloud.google.com/artifact-registry/docs/integrate-cloud-run
    image_reader = ["artifactregistry.repositories.downloadArtifacts"]
    # What people on call see and do: the command line and docs/runbook.md, command by command in
    # tests/terraform/test_people.py. No document is written with it.
    operator = [
      "cloudscheduler.jobs.enable",
      "cloudscheduler.jobs.get",
      "cloudscheduler.jobs.list",
      "cloudscheduler.jobs.pause",
      "cloudscheduler.jobs.run",
      "compute.globalAddresses.get",
      "compute.sslCertificates.list",
      "datastore.entities.get",
      "datastore.entities.list",
      "run.executions.list",
      "run.revisions.list",
      "serviceusage.services.use", # a quota project in a person's own credentials asks for it
      "workflows.executions.cancel",
      "workflows.executions.get",
      "workflows.executions.list",
    ]
    message_reader = ["pubsub.subscriptions.consume"]
    key_admin = [
      "datastore.databases.get",
      "datastore.entities.create",
      "datastore.entities.get",
      "datastore.entities.list",
      "datastore.entities.update",
      "serviceusage.services.use",
    ]
  }

  # The smallest thing that IAM lets a role be given on.
  role_scopes = {
    state              = "project"
    outbox             = "project"
    posts              = "project"
    hours              = "project"
    serving_state      = "project"
    news               = "events topic"
    dead_letters       = "dead-letter topic"
    training_publisher = "training topic"
    service_reader     = "services"
    traffic            = "services"
    run_reader         = "project"
    run_cleaner        = "project"
    image_reader       = "images"
    preparation        = "project"
    preparation_end    = "project"
    workflow_start     = "project"
    workflow_reader    = "project"
    workflow_end       = "project"
    metrics            = "project"
    log_writer         = "project"
    traces             = "project"
    training_reader    = "training buckets"
    artifacts_reader   = "models"
    artifacts_writer   = "models"
    artifacts_cleaner  = "models"
  }

  # Functions by who may call them, beside Google's own administrators.
  invokers = merge(
    {
      for name in [
        "abort_deployment", "check_health", "claim_deployment", "copy_artifacts", "create_revision",
        "finish_deployment", "judge_canary", "prepare_model", "shift_traffic",
      ] : name => ["serviceAccount:${local.emails["workflow"]}"]
    },
    { for name in keys(local.schedules) : name => ["serviceAccount:${local.emails["scheduler"]}"] },
    { for topic in local.topics : topic.function => ["serviceAccount:${local.emails[topic.trigger]}"] },
    { for name in ["cancel", "roll_back"] : name => sort(var.operators) },
    # Behind a domain it is Identity-Aware Proxy that calls it: load_balancer.tf.
    { dashboard = local.behind_iap ? [] : sort(var.dashboard_access) },
  )

  # Every grant, one line each: "part role", by scope.
  grants = {
    for scope in distinct(values(local.role_scopes)) : scope => {
      for grant in flatten([
        for part, roles in merge(local.part_roles, { for name in local.serving_accounts : name => local.serving_roles }) : [
          for role in roles : { part = part, role = role }
        ]
        ]) : "${grant.part} ${grant.role}" => merge(grant, {
        member = "serviceAccount:${local.emails[grant.part]}"
      })
      if local.role_scopes[grant.role] == scope
    }
  }

  role_ids = {
    for name, role in google_project_iam_custom_role.role :
    name => "projects/${var.project}/roles/${role.role_id}"
  }

  # Objects below models/ only. A list is asked of the bucket, and so is whether to answer 404 or 403 for
  # an object that is not there.
  # https://docs.cloud.google.com/iam/docs/conditions-attribute-reference#resource-type
  below_models = join(" || ", [
    "resource.type == 'storage.googleapis.com/Bucket'",
    "resource.name.startsWith('projects/_/buckets/${local.serving_bucket}/objects/models/')",
  ])
}

resource "google_project_iam_custom_role" "role" {
  for_each = local.custom_roles

  role_id     = "${var.role_prefix}_${each.key}"
  title       = "Turnout: ${replace(each.key, "_", " ")}"
  description = "What one part of Turnout or one task of a person needs, and nothing else"
  permissions = each.value

  depends_on = [google_project_service.api]
}

resource "google_project_iam_member" "part" {
  for_each = local.grants["project"]

  project = var.project
  role    = local.role_ids[each.value.role]
  member  = each.value.member
}

resource "google_pubsub_topic_iam_member" "part" {
  for_each = merge(
    { for key, grant in local.grants["events topic"] : key => merge(grant, { topic = google_pubsub_topic.topic[local.events_topic].name }) },
    { for key, grant in local.grants["training topic"] : key => merge(grant, { topic = google_pubsub_topic.topic[local.training_topic].name }) },
    { for key, grant in local.grants["dead-letter topic"] : key => merge(grant, { topic = google_pubsub_topic.dead_letters[local.training_topic].name }) },
  )

  topic  = each.value.topic
  role   = local.role_ids[each.value.role]
  member = each.value.member
}

resource "google_storage_bucket_iam_member" "models" {
  for_each = local.grants["models"]

  bucket = google_storage_bucket.serving.name
  role   = local.role_ids[each.value.role]
  member = each.value.member

  condition {
    title      = "below models/"
    expression = local.below_models
  }
}

resource "google_storage_bucket_iam_member" "training" {
  for_each = {
    for pair in setproduct(keys(local.training_buckets), keys(local.grants["training buckets"])) :
    "${pair[0]} ${pair[1]}" => merge(local.grants["training buckets"][pair[1]], { bucket = pair[0] })
  }

  bucket = each.value.bucket
  role   = local.role_ids[each.value.role]
  member = each.value.member

  depends_on = [google_storage_bucket.training]
}

resource "google_artifact_registry_repository_iam_member" "part" {
  for_each = local.grants["images"]

  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = local.role_ids[each.value.role]
  member     = each.value.member
}

# All of a role's members at once, so that nobody else keeps it.
resource "google_cloud_run_v2_service_iam_binding" "model" {
  for_each = {
    for pair in setproduct(keys(local.models), ["service_reader", "traffic"]) :
    "${pair[0]} ${pair[1]}" => { model = pair[0], role = pair[1] }
  }

  name     = google_cloud_run_v2_service.model[each.value.model].name
  location = google_cloud_run_v2_service.model[each.value.model].location
  role     = local.role_ids[each.value.role]
  members = sort(concat(
    [for grant in local.grants["services"] : grant.member if grant.role == each.value.role],
    # `gcloud run services update-traffic`, where neither the pipeline nor the dashboard answers.
    each.value.role == "traffic" ? tolist(var.operators) : [],
  ))
}

resource "google_service_account_iam_binding" "serving" {
  for_each = local.serving_accounts

  service_account_id = "projects/${var.project}/serviceAccounts/${local.emails[each.key]}"
  role               = local.role_ids["acts_as"]
  members = sort(concat(
    [for grant in local.grants["services"] : grant.member if grant.role == "traffic"],
    tolist(var.operators),
  ))
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = merge([
    for function, members in local.invokers : {
      for member in members : "${function} ${member}" => { function = function, member = member }
    }
  ]...)

  name     = basename(google_cloudfunctions2_function.part[each.value.function].service_config[0].service)
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value.member
}

# `turnout open` asks Cloud Run where the dashboard is before it becomes its proxy.
resource "google_cloud_run_v2_service_iam_member" "dashboard_finder" {
  for_each = local.behind_iap ? [] : var.dashboard_access

  name     = basename(google_cloudfunctions2_function.part["dashboard"].service_config[0].service)
  location = var.region
  role     = local.role_ids["service_reader"]
  member   = each.value
}

# People on call. Logs, charts and traces are Google's own roles, which follow what these come to hold.
resource "google_project_iam_member" "operator" {
  for_each = {
    for pair in setproduct(var.operators, [
      "operator", "roles/cloudtrace.user", "roles/logging.viewer", "roles/monitoring.viewer",
    ]) : "${pair[0]} ${pair[1]}" => { member = pair[0], role = pair[1] }
  }

  project = var.project
  role    = lookup(local.role_ids, each.value.role, each.value.role)
  member  = each.value.member
}

# A run is published again, and a message that was refused.
resource "google_pubsub_topic_iam_member" "operator" {
  for_each = var.operators

  topic  = google_pubsub_topic.topic[local.training_topic].name
  role   = local.role_ids["training_publisher"]
  member = each.value
}

# Dead letters are read and taken off; what waits to be pushed is dropped with `seek`.
resource "google_pubsub_subscription_iam_member" "operator" {
  for_each = {
    for pair in setproduct(var.operators, concat(keys(local.topics), [for topic in keys(local.topics) : "${topic}-dead-letter"])) :
    "${pair[0]} ${pair[1]}" => { member = pair[0], subscription = pair[1] }
  }

  subscription = each.value.subscription
  role         = local.role_ids["message_reader"]
  member       = each.value.member

  depends_on = [google_pubsub_subscription.dead_letters, google_pubsub_subscription.push]
}

resource "google_project_iam_member" "key_admin" {
  for_each = var.key_admins

  project = var.project
  role    = local.role_ids["key_admin"]
  member  = each.value
}

# Training, wherever it runs: says that a run is done, and writes it to the buckets that are made here.
resource "google_pubsub_topic_iam_member" "trainer" {
  for_each = var.trainers

  topic  = google_pubsub_topic.topic[local.training_topic].name
  role   = "roles/pubsub.publisher"
  member = each.value
}

resource "google_storage_bucket_iam_member" "trainer" {
  for_each = {
    for pair in setproduct(local.created_training_buckets, var.trainers) :
    "${pair[0]} ${pair[1]}" => { bucket = pair[0], member = pair[1] }
  }

  bucket = google_storage_bucket.training[each.value.bucket].name
  role   = "roles/storage.objectUser"
  member = each.value.member
}

# The builds of the functions, whose source Cloud Functions copies into buckets of its own, and of the
# serving image, whose source and bill of materials are in ours.
resource "google_project_iam_member" "build" {
  for_each = {
    "roles/logging.logWriter" = ""
    "roles/storage.objectViewer" = join(" || ", [
      for prefix in ["gcf-v2-sources-", "gcf-v2-uploads-"] :
      "resource.name.startsWith('projects/_/buckets/${prefix}')"
    ])
  }

  project = var.project
  role    = each.key
  member  = "serviceAccount:${local.emails["build"]}"

  dynamic "condition" {
    for_each = each.value == "" ? [] : [each.value]
    content {
      title      = "Cloud Functions' own buckets"
      expression = condition.value
    }
  }
}

resource "google_storage_bucket_iam_member" "build" {
  for_each = toset(["roles/storage.objectCreator", "roles/storage.objectViewer"])

  bucket = google_storage_bucket.source.name
  role   = each.key
  member = "serviceAccount:${local.emails["build"]}"
}

resource "google_artifact_registry_repository_iam_member" "build" {
  for_each = {
    functions = google_artifact_registry_repository.functions.name
    images    = google_artifact_registry_repository.images.name
  }

  repository = each.value
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = "serviceAccount:${local.emails["build"]}"
}
