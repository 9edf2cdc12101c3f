"""The editor over HTTP: one static page, small JSON in, PNG out."""
