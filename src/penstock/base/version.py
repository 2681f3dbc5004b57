"""Which Penstock this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

#: Of a source tree that is not installed.
_FROM_SOURCE = "0+source"


def installed_version() -> str:
    """Reads the installed metadata, which takes some milliseconds."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return _FROM_SOURCE
