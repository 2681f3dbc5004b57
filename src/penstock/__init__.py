"""Durable event ingestion and queues, on one machine or many.

`penstock serve` runs it, `penstock demo` shows it. See `cli/` for the commands.
"""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    # Looked up when somebody asks: reading the installed metadata takes longer than starting a process does,
    # and every executor imports this package.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("penstock")
        except PackageNotFoundError:
            return "0+source"  # run from a source tree that is not installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
