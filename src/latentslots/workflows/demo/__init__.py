"""`latentslots demo`: the gallery page of the bundled model."""
