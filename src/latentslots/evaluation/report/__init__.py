"""Reports as files: numbers for programs, tables and pictures for people."""
