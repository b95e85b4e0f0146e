"""Measurements that the documents quote, each with the command that repeats it."""
