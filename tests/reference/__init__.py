"""Slow and obvious versions of the computations of the package."""
