"""Importers: one per data set or format, all writing the Parquet store."""
