"""The Parquet store: reading, resumable writing, merging and verifying."""
