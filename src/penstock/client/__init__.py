"""Sending from code: `penstock.Client` and `penstock.AsyncClient`, over the public HTTP API.

Nothing is imported here, so that the command line can look up where its server is (`target`) without an HTTP
library.
"""
