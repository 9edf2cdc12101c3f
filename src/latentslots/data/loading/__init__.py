"""Training batches from a data set, and caches of the outputs of frozen models on its images."""
