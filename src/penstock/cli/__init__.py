"""The `penstock` command: one file per group of commands.

It speaks the public HTTP API and nothing else; `serve` alone starts a server, in this process. Results go to
stdout, progress and errors to stderr, and a user's mistake never shows a traceback: it is a `CliError`.

Whatever is slow to import (rich, duckdb, urllib) is imported by the function that needs it, since
`penstock serve` runs through here too and a restarted server should be back soon.
"""
