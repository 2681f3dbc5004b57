"""Who a database belongs to, written in it: file names are hashes and tell nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: `ObjectStorage.execute`, or a connection's.
Execute = Callable[..., Any]


def read_name(execute: Execute) -> str | None:
    """The name of the object whose database this is; None if it was never started to the end."""
    row = execute("SELECT value FROM _penstock_meta WHERE key = 'name'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None
