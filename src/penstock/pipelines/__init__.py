"""Pipelines: records in over HTTP, files out into a bucket, each record exactly once."""
