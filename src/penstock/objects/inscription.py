"""Whose a database is, written in it: its file name is a hash and tells nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.objects.identity import ObjectId

#: `SystemStorage.execute`, or a connection's.
Execute = Callable[..., Any]


def note_identity(execute: Execute, id: ObjectId) -> ObjectId:
    """Write down whose database this is, as far as it is not there yet. Gives the id with its name, if that is
    known from now or from earlier."""
    stored = dict(execute("SELECT key, value FROM _penstock_meta WHERE key IN ('namespace', 'id', 'name')"))
    for key, value in (("namespace", id.namespace), ("id", id.key), ("name", id.name)):
        # To write what is there already would take the write lock at each activation.
        if value is not None and key not in stored:
            execute("INSERT INTO _penstock_meta VALUES (?1, ?2)", (key, value))
    return id if id.name is not None or "name" not in stored else ObjectId(id.namespace, stored["name"])


def read_name(execute: Execute) -> str | None:
    """The name of the object whose database this is; None if it has none or was never started to the end."""
    row = execute("SELECT value FROM _penstock_meta WHERE key = 'name'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else None
