"""Who a database belongs to, written in it: file names are hashes and tell nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.objects.identity import ObjectId

#: `ObjectStorage.execute`, or a connection's.
Execute = Callable[..., Any]


def note_identity(execute: Execute, id: ObjectId) -> None:
    """Write down whose database this is, once in its life."""
    for key, value in (("namespace", id.namespace), ("name", id.name)):
        # Read first: to write what is there already would take the write lock at each activation.
        if execute("SELECT 1 FROM _penstock_meta WHERE key = ?1", (key,)).fetchone() is None:
            execute("INSERT INTO _penstock_meta VALUES (?1, ?2)", (key, value))


def read_name(execute: Execute) -> str | None:
    """The name of the object whose database this is; None if it was never started to the end."""
    row = execute("SELECT value FROM _penstock_meta WHERE key = 'name'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None
