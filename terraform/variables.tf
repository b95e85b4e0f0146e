# What an installation says about itself. One project holds one environment: names such as the
# topic `training-completed` or the service `model-serving-ID` exist once a project.

variable "project" {
  description = "The Google Cloud project, by its id; it exists already and has a billing account."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project is the project's id, such as shop-production: 6 to 30 of a-z, 0-9 and hyphens."
  }
}

variable "region" {
  description = "Where the pipeline runs, and each model that names no region of its own."
  type        = string
  default     = "europe-central2"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region looks like europe-central2; a zone such as europe-central2-a is no region."
  }
}

variable "regions" {
  description = <<-EOT
    Where the installation may be: each model is served in one of these (its own `region`), messages
    are kept and secrets have a replica in each. The pipeline itself runs in `region`. Empty: only there.
  EOT
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.regions) == 0 || contains(var.regions, var.region)
    error_message = "regions must contain region, or be empty."
  }

  validation {
    condition     = length(var.regions) == length(distinct(var.regions))
    error_message = "regions names a region twice."
  }
}

variable "firestore_location" {
  description = "Where Firestore keeps its documents, such as eur3 for several regions; empty: in `region`."
  type        = string
  default     = ""
}

variable "environment" {
  description = "What this installation is for; a label on everything."
  type        = string
  default     = "production"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,29}$", var.environment))
    error_message = "environment is a word such as production or staging."
  }
}

variable "labels" {
  description = "Labels for everything, beside `environment` and `application`."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name, value in var.labels :
      can(regex("^[a-z][a-z0-9_-]{0,62}$", name)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "labels: names begin with a-z; names and values are at most 63 of a-z, 0-9, _ and -."
  }
}

variable "serving_image" {
  description = <<-EOT
    The serving image by digest, such as
    europe-central2-docker.pkg.dev/PROJECT/turnout/serving@sha256:...; `make deploy` builds it and says so.
  EOT
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]*/[^@ ]+@sha256:[0-9a-f]{64}$", var.serving_image))
    error_message = "serving_image ends in @sha256: and 64 hex digits: a tag could become another image."
  }
}

variable "bundle" {
  description = "The functions' source, the zip that `make bundle` builds, such as ../build/bundle-0123456789ab.zip."
  type        = string

  validation {
    condition     = can(regex("^bundle-[0-9a-f]{12}\\.zip$", basename(var.bundle)))
    error_message = "bundle is the zip that `make bundle` builds; its name carries its hash: bundle-0123456789ab.zip."
  }
}

variable "training_buckets" {
  description = <<-EOT
    The buckets that training writes its artifacts to; only from these are models deployed.
    `create` false: it exists already, and is only read.
  EOT
  type = map(object({
    create = optional(bool, true)
  }))
  default = {}

  validation {
    condition = alltrue([
      for name in keys(var.training_buckets) : can(regex("^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$", name))
    ])
    error_message = "training_buckets: a bucket's name is 3 to 63 of a-z, 0-9, dots, hyphens and underscores."
  }
}

variable "trainers" {
  description = <<-EOT
    Who may publish `training-completed` and write to the created training buckets, such as
    serviceAccount:training@OTHER-PROJECT.iam.gserviceaccount.com.
  EOT
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.trainers : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))
    ])
    error_message = "trainers: user:, group:, serviceAccount:, principal: or principalSet: and who; never allUsers."
  }
}

variable "operators" {
  description = <<-EOT
    Who is on call, such as group:ops@example.com: reads everything with the command line, publishes again,
    rolls back, cancels, moves a model's traffic where the pipeline cannot, and does what docs/runbook.md says.
  EOT
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.operators : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))
    ])
    error_message = "operators: user:, group:, serviceAccount:, principal: or principalSet: and who; never allUsers."
  }
}

variable "key_admins" {
  description = <<-EOT
    Who may make and revoke API keys with the command line (`turnout keys`), such as group:ml-leads@example.com.
    Firestore knows no permissions below the database, so they may write every document. The dashboard's
    admins do the same with the dashboard's own rights, and need not be here.
  EOT
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.key_admins : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))
    ])
    error_message = "key_admins: user:, group:, serviceAccount:, principal: or principalSet: and who; never allUsers."
  }
}

variable "role_prefix" {
  description = <<-EOT
    How the names of our own roles begin. Google gives a deleted role's name back after 37 days only: who
    destroyed the installation between 7 and 37 days ago says another one here, such as turnout2. Never
    change it where the installation runs: everybody would be without a role for moments.
  EOT
  type        = string
  default     = "turnout"

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{2,30}$", var.role_prefix))
    error_message = "role_prefix is 3 to 31 of a-z, 0-9 and _, such as turnout2."
  }
}

variable "function_instances" {
  description = <<-EOT
    How many instances a function may have, of one vCPU and up to 2 GiB each. Cloud Run checks it against
    the region's quota when it makes the function: a new project often has 20 vCPU and 40 GiB (docs/limits.md).
  EOT
  type        = number
  default     = 10

  validation {
    condition     = var.function_instances >= 1 && var.function_instances <= 1000 && floor(var.function_instances) == var.function_instances
    error_message = "function_instances is a whole number from 1 to 1000."
  }
}

variable "models" {
  description = <<-EOT
    The models, by id: models.auto.tfvars.json, which the local cloud reads, too. What is left out is as
    below; shared/messages.py (ModelDeclaration) says what each field means, and what else is checked.
  EOT
  type = map(object({
    # Left out, or the local cloud's name for it: `serving_image`. Else an image by digest.
    image           = optional(string, "turnout-serving")
    service_account = optional(string, "serving")
    # Where it is prepared and served, one of `regions`, for ever; left out: `region`.
    region            = optional(string, "")
    cpu               = optional(string, "2")
    memory            = optional(string, "4Gi")
    min_instances     = optional(number, 1)
    max_instances     = optional(number, 10)
    concurrency       = optional(number, 80)
    startup_timeout_s = optional(number, 240)
    env               = optional(map(string), {})
    golden_customers  = optional(list(string), [])
    prepare = optional(object({
      top_k     = optional(number, 10)
      customers = optional(number)
      tasks     = optional(number, 1)
    }), {})
    retrieval = optional(object({
      kind           = optional(string, "exact")
      minimum_recall = optional(number, 0.95)
    }), {})
    policy = optional(object({
      when           = optional(string, "if_better")
      primary_metric = optional(string, "recall_at_100")
      minimum_margin = optional(number, 0)
      guard_metrics  = optional(map(number), {})
      significance   = optional(number)
      strategy       = optional(string, "immediate")
      steps_percent  = optional(list(number), [10, 50, 100])
      over           = optional(string, "1h")
      canary = optional(object({
        judge               = optional(string, "gate")
        minimum_requests    = optional(number, 200)
        warm_up_s           = optional(number, 60)
        metrics_lag_s       = optional(number, 240)
        false_alarm         = optional(number, 0.01)
        error_rate_increase = optional(number, 0.005)
        latency_ratio       = optional(number, 1.5)
        max_error_rate      = optional(number, 0.05)
        max_p95_ms          = optional(number)
        inconclusive_for_s  = optional(number, 3600)
        on_inconclusive     = optional(string, "hold")
        webhooks            = optional(list(string), [])
      }), {})
      skew = optional(object({
        check                 = optional(string, "report")
        tolerance             = optional(number, 0.02)
        customers             = optional(number, 2000)
        minimum_coverage      = optional(number)
        maximum_concentration = optional(number)
        minimum_overlap       = optional(number)
      }), {})
      hold = optional(object({
        at_percent = optional(list(number), [])
        limit_s    = optional(number, 86400)
      }), {})
      superseding    = optional(string, "queue")
      drift          = optional(string, "report")
      keep_versions  = optional(number, 5)
      keep_artifacts = optional(number, 20)
    }), {})
  }))
  default = {}

  validation {
    condition     = alltrue([for id in keys(var.models) : can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", id))])
    error_message = "models: an id is 2 to 24 of a-z, 0-9 and hyphens; it begins with a letter and ends with none."
  }

  validation {
    condition = alltrue([
      for model in var.models : contains(concat(["", var.region], var.regions), model.region)
    ])
    error_message = "models: region is one of `regions`, or left out."
  }

  validation {
    condition = alltrue([
      for model in var.models :
      model.image == "turnout-serving" || can(regex("^[^@ ]+/[^@ ]+@sha256:[0-9a-f]{64}$", model.image))
    ])
    error_message = "models: an image of its own ends in @sha256: and 64 hex digits: a tag could become another image."
  }

  validation {
    condition     = alltrue([for model in var.models : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", model.service_account))])
    error_message = "models: service_account is a name of 6 to 30 of a-z, 0-9 and hyphens, without @; it is made here."
  }

  validation {
    condition = alltrue([
      for model in var.models : model.min_instances >= 0 && model.max_instances >= max(1, model.min_instances)
    ])
    error_message = "models: max_instances is 1 or more, and not below min_instances."
  }

  validation {
    condition     = alltrue([for model in var.models : model.startup_timeout_s >= 10 && model.startup_timeout_s <= 240])
    error_message = "models: startup_timeout_s is 10 to 240, the longest that Cloud Run waits."
  }

  validation {
    condition = alltrue([
      for model in var.models :
      contains(["off", "if_better", "always"], model.policy.when) &&
      contains(["immediate", "gradual"], model.policy.strategy) &&
      contains(["queue", "replace"], model.policy.superseding) &&
      contains(["report", "repair"], model.policy.drift) &&
      contains(["off", "report", "gate"], model.policy.canary.judge) &&
      contains(["hold", "abort"], model.policy.canary.on_inconclusive) &&
      contains(["off", "report", "gate"], model.policy.skew.check) &&
      contains(["exact", "approximate"], model.retrieval.kind)
    ])
    error_message = "models: a word of a policy is unknown (when, strategy, superseding, drift, judge, on_inconclusive, check, kind)."
  }
}

variable "dashboard_admins" {
  description = "E-mails, or domain:example.com, of those who may do everything in the dashboard."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.dashboard_admins : can(regex("^(domain:)?[^,:\\s]+$", one)) && (strcontains(one, "@") || startswith(one, "domain:"))])
    error_message = "dashboard_admins lists e-mails and domain:NAME."
  }
}

variable "dashboard_deployers" {
  description = "E-mails, or domain:example.com, of those who may deploy, cancel and roll back."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.dashboard_deployers : can(regex("^(domain:)?[^,:\\s]+$", one)) && (strcontains(one, "@") || startswith(one, "domain:"))])
    error_message = "dashboard_deployers lists e-mails and domain:NAME."
  }
}

variable "dashboard_viewers" {
  description = "E-mails, or domain:example.com, of those who may look; empty: whoever Google lets in."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.dashboard_viewers : can(regex("^(domain:)?[^,:\\s]+$", one)) && (strcontains(one, "@") || startswith(one, "domain:"))])
    error_message = "dashboard_viewers lists e-mails and domain:NAME."
  }
}

variable "dashboard_access" {
  description = "Whom Google lets in to the dashboard at all, such as group:ml@example.com (roles/run.invoker, or IAP's)."
  type        = set(string)
  default     = []

  validation {
    condition = alltrue([
      for member in var.dashboard_access : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))
    ])
    error_message = "dashboard_access: user:, group:, domain:, serviceAccount:, principal: or principalSet: and who; never allUsers."
  }
}

variable "dashboard_domain" {
  description = <<-EOT
    The host name of the dashboard behind a load balancer with Identity-Aware Proxy, such as
    turnout.example.com. Empty: no load balancer; people reach it through `turnout open`.
  EOT
  type        = string
  default     = ""

  validation {
    condition     = var.dashboard_domain == "" || can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.dashboard_domain))
    error_message = "dashboard_domain is a host name such as turnout.example.com, without https:// or a path."
  }
}

variable "dashboard_iap_audience" {
  description = <<-EOT
    What Identity-Aware Proxy signs for, such as /projects/NUMBER/global/backendServices/ID. Google makes
    the ID with the load balancer: it is the output `dashboard_iap_audience` of the first apply.
  EOT
  type        = string
  default     = ""

  validation {
    condition     = var.dashboard_iap_audience == "" || can(regex("^/projects/[0-9]+/(global|regions/[a-z0-9-]+)/backendServices/[0-9]+$", var.dashboard_iap_audience))
    error_message = "dashboard_iap_audience looks like /projects/NUMBER/global/backendServices/ID."
  }
}

variable "dashboard_secret" {
  description = <<-EOT
    What signs the dashboard's forms, should a new version of the secret be made: 32 random characters or
    more, such as TF_VAR_dashboard_secret=$(openssl rand -hex 32). `make deploy` sees to it.
  EOT
  type        = string
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = length(var.dashboard_secret) >= 32
    error_message = "dashboard_secret has 32 characters or more."
  }
}

variable "dashboard_secret_version" {
  description = "Raise it, and the dashboard signs with another secret from then on."
  type        = number
  default     = 1

  validation {
    condition     = var.dashboard_secret_version >= 1 && floor(var.dashboard_secret_version) == var.dashboard_secret_version
    error_message = "dashboard_secret_version is a whole number of 1 or more."
  }
}

variable "chat_webhook_secret" {
  description = <<-EOT
    Which version of the secret `chat-webhook` holds the URL that deployment events are posted to, such as
    1; the version is added with gcloud, once the secret is there. Empty: nothing is posted.
  EOT
  type        = string
  default     = ""

  validation {
    condition     = var.chat_webhook_secret == "" || can(regex("^[1-9][0-9]*$", var.chat_webhook_secret))
    error_message = "chat_webhook_secret is the number of a version of the secret `chat-webhook`, or empty."
  }
}

variable "traces" {
  description = "True: every deployment is a trace in Cloud Trace. False: nothing is recorded."
  type        = bool
  default     = true
}

variable "alert_emails" {
  description = "Where alerts go."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+$", one))])
    error_message = "alert_emails lists e-mail addresses."
  }
}

variable "billing_account" {
  description = "The billing account of the project, such as 012345-6789AB-CDEF01, for the budget; empty: no budget."
  type        = string
  default     = ""

  validation {
    condition     = var.billing_account == "" || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "billing_account looks like 012345-6789AB-CDEF01."
  }
}

variable "budget" {
  description = "What the project may cost a month, in the billing account's currency, before people are told."
  type        = number
  default     = 300

  validation {
    condition     = var.budget >= 1 && floor(var.budget) == var.budget
    error_message = "budget is a whole number of 1 or more."
  }
}

variable "deletion_protection" {
  description = "True: `terraform destroy` refuses what holds data or serves. Set it to false, apply, then destroy."
  type        = bool
  default     = true
}

variable "alert_chat_spaces" {
  description = "Google Chat spaces that alerts go to as well, such as spaces/AAAA1234; the app Google Cloud Monitoring must be in them."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.alert_chat_spaces : can(regex("^spaces/[A-Za-z0-9_-]+$", one))])
    error_message = "alert_chat_spaces lists spaces such as spaces/AAAA1234: the end of the space's address in a browser."
  }
}

variable "alert_page_channels" {
  description = <<-EOT
    Notification channels that wake people up, such as
    projects/PROJECT/notificationChannels/1234 for PagerDuty: made in the console, where such services are
    signed in to. Alerts of the severity critical go there as well.
  EOT
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for one in var.alert_page_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", one))])
    error_message = "alert_page_channels lists names such as projects/PROJECT/notificationChannels/1234."
  }
}

variable "runbook_url" {
  description = "Where people read docs/runbook.md; every alert links to its section there."
  type        = string
  default     = "docs/runbook.md"
}

variable "uptime_checks" {
  description = "True: Google asks every prediction service for its /health every five minutes, from outside."
  type        = bool
  default     = true
}

variable "objectives" {
  description = <<-EOT
    What is promised over 28 days, as parts of one: of prediction requests that do not fail
    (`availability`), of those answered within `latency_ms` (`latency`), and of rollouts that end with the
    new version live or stopped by a check of it (`rollouts`). See docs/slo.md.
  EOT
  type = object({
    availability = optional(number, 0.999)
    latency      = optional(number, 0.95)
    latency_ms   = optional(number, 250)
    rollouts     = optional(number, 0.95)
  })
  default = {}

  validation {
    # Burning 14.4 times as fast as allowed must be possible at all: 14.4 * (1 - 0.94) < 1.
    condition = alltrue([
      for goal in [var.objectives.availability, var.objectives.latency] : goal >= 0.94 && goal <= 0.9999
    ])
    error_message = "objectives: availability and latency are from 0.94 to 0.9999."
  }

  validation {
    condition     = var.objectives.latency_ms >= 1 && var.objectives.rollouts > 0 && var.objectives.rollouts < 1
    error_message = "objectives: latency_ms is at least 1, rollouts lies between 0 and 1."
  }
}
