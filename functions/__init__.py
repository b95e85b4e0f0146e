"""The pipeline's functions: one source bundle, an entry point a file."""
