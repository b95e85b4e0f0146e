"""Builds what runs on Google Cloud and puts it there; never part of what runs."""
