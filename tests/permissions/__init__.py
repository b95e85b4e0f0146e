"""What each part may do: derived from what it does, and compared with what Terraform grants."""
