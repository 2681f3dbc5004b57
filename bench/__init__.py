"""Benchmarks: `python -m bench.ingest` from the root of the repository."""
