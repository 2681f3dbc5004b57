"""Reading one object's database from outside of the object, without changing anything.

It is done by the process that owns the database, which is the only one that can open it, on a connection of its
own beside the owner's, which may or may not be there. The connection can do nothing but read: SQLite's authorizer
refuses every other action, and `query_only` would, too. It never copies the log back: that is the business of the
next opening, which first makes the log durable (`database.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import apsw

from penstock.base.clock import Clock
from penstock.base.errors import Invalid, NotFound
from penstock.storage.database import translated_errors
from penstock.storage.disk import Disk

_ACTIONS = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
#: What tells about the schema, without a change of anything.
_PRAGMAS = frozenset(
    {"foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"}
)
#: SQLite asks whether to go on after so many of its steps: some 50 µs.
_STEPS_BETWEEN_LOOKS = 10_000
#: How long it waits for an owner that is just opening or closing.
_BUSY_MS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one query: its time, and what it may give."""

    ms_max: int
    rows_max: int
    bytes_max: int


@dataclass(slots=True)
class Found:
    """`rows` are of `SqlValue`s. `truncated`: there are more of them than the bounds allow."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool = False


@contextlib.contextmanager
def open_read_only(
    disk: Disk, path: str, limits: Mapping[int, int] = MappingProxyType({})
) -> Iterator[apsw.Connection]:
    """A connection that only reads, with `limits` (values by SQLITE_LIMIT code). Blocks.

    Raises `NotFound` if there is no such database, `Unavailable` while another process has it (or, where
    `Disk.shares_wal_index` is not, another connection)."""
    if not disk.exists(path):
        raise NotFound("There is no such object.")
    with translated_errors(path):
        # Not SQLITE_OPEN_READONLY: with the lock for a whole process ("unix-excl") SQLite wants to write to open.
        connection = apsw.Connection(path, vfs=disk.vfs, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(_BUSY_MS_MAX)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if not disk.shares_wal_index:
                connection.pragma("locking_mode", "exclusive")
            connection.pragma("trusted_schema", False)
            connection.pragma("query_only", True)
            connection.authorizer = _authorize
            for limit, value in limits.items():
                connection.limit(limit, value)
            yield connection
        finally:
            connection.close()


def _authorize(action: int, first: str | None, _second: str | None, _schema: str | None, _by: str | None) -> int:
    allowed = action in _ACTIONS or (action == apsw.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS)
    return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY


def query(connection: apsw.Connection, sql: str, bounds: Bounds, clock: Clock) -> Found:
    """Run one SELECT. Raises `Invalid` when it is something else, is wrong, or takes too long."""
    ends_ms = clock.elapsed_ms() + bounds.ms_max
    connection.set_progress_handler(lambda: clock.elapsed_ms() > ends_ms, _STEPS_BETWEEN_LOOKS)
    cursor = connection.cursor()
    found = Found([], [])
    statements = 0

    def on_statement(running: apsw.Cursor, _sql: str, _bindings: Any) -> bool:
        nonlocal statements
        statements += 1
        if statements > 1:
            raise Invalid("Only one statement at a time can be run.")
        found.columns = [column[0] for column in running.get_description()]
        return True

    cursor.exec_trace = on_statement
    size = 0
    try:
        for row in cursor.execute(sql):
            size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
            if len(found.rows) >= bounds.rows_max or size > bounds.bytes_max:
                found.truncated = True
                break
            found.rows.append(list(row))
    except apsw.AuthError as error:
        raise Invalid(
            f"Only SELECT can be run on an object from outside ({error}). To change it, call one of its methods."
        ) from error
    except apsw.InterruptError as error:
        raise Invalid(f"The query took more than {bounds.ms_max} ms. Ask for less.") from error
    except apsw.BindingsError as error:
        raise Invalid("A query from outside has no bindings: write the values into it.") from error
    except (apsw.SQLError, apsw.TooBigError, apsw.RangeError, apsw.MismatchError) as error:
        raise Invalid(f"SQLite refuses the query: {error}.") from error
    finally:
        cursor.close(True)
    if not found.columns:
        raise Invalid("There is nothing to run: write one SELECT.")
    return found
