"""The HTTP face: the ingest hot path as plain ASGI, the control API on Starlette."""
