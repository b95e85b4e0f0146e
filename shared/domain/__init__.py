"""The rules of a deployment, pure: standard library only, no clock, no network."""
