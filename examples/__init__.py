"""Training jobs on real data that publish their results as any training job would."""
