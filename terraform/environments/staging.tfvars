# terraform apply -var-file=environments/staging.tfvars -var serving_image=... -var bundle=...
# The smallest that works, and all of it can be destroyed again. Copy it to a file of your own and say
# ENVIRONMENT=its-name: the people here are examples.

project             = "shop-staging"
region              = "europe-central2"
environment         = "staging"
deletion_protection = false

trainers         = ["serviceAccount:training@shop-training.iam.gserviceaccount.com"]
operators        = ["group:ml@example.com"]
dashboard_access = ["group:ml@example.com"]
dashboard_admins = ["domain:example.com"]
alert_emails     = ["ml@example.com"]
