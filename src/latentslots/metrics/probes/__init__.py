"""Probes: how well small heads predict attributes of objects from their slots."""
