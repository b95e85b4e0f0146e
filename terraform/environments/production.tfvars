# terraform apply -var-file=environments/production.tfvars -var serving_image=... -var bundle=...
# (`make deploy` builds both and says so). The models are in models.auto.tfvars.json.

project     = "shop-production"
region      = "europe-central2"
environment = "production"

# Two regions of one multi-region keep the documents; Firestore's location can never be changed.
firestore_location = "eur3"

trainers   = ["serviceAccount:training@shop-training.iam.gserviceaccount.com"]
operators  = ["group:ml-oncall@example.com"]
key_admins = ["user:ml-lead@example.com"]

# A load balancer with Identity-Aware Proxy, which needs an organisation, a DNS record and a second apply:
# read docs/how-to/dashboard-on-a-domain.md first, or leave this line out.
dashboard_domain    = "turnout.example.com"
dashboard_access    = ["group:ml@example.com"]
dashboard_admins    = ["ml-lead@example.com"]
dashboard_deployers = ["domain:example.com"]

alert_emails = ["ml-oncall@example.com"]

# Whoever applies needs roles/billing.costsManager on the billing account; or leave both lines out.
billing_account = "012345-6789AB-CDEF01"
budget          = 300
