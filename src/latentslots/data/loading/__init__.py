"""Training batches from a data set, and caches of what frozen models compute from its images."""
