"""From a configuration to objects: objectives, data sets and caches."""
