"""SQL over the records of pipelines: which files hold them, and DuckDB in a process of its own."""
