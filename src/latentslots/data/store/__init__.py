"""The Parquet store: reading, resumable writing, merging, verifying."""
