"""Reports as files: numbers for programs, tables and figures for people."""
