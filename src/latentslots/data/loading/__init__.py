"""From a data set to training batches, and caches of what frozen models compute."""
