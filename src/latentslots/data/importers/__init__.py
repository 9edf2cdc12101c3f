"""Importers: one file for each data set or format."""
