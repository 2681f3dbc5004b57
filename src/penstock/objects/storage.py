"""An object's storage: what `ctx.storage` is.

Reads and writes are synchronous, on the event loop. What is written between two turns of the loop commits
together (`committer.py`). An exception undoes nothing; `transaction_sync` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import apsw

from penstock.base.limits import FREE_BYTES_KEPT, FREE_SLICE_BYTES
from penstock.objects.alarm import Alarm
from penstock.objects.committer import Committer
from penstock.storage.database import Reader, SqlValue

T = TypeVar("T")

_ALARM_TABLE = """
CREATE TABLE IF NOT EXISTS _penstock_alarm (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  at_ms INTEGER NOT NULL,
  retries INTEGER NOT NULL,
  failed INTEGER NOT NULL
) STRICT
"""


class SqlCursor:
    """The rows of a statement."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._cursor)

    def one(self) -> tuple[Any, ...]:
        """The only row. Raises `ValueError` if there is none or more than one."""
        rows = self._cursor.fetchall()
        if len(rows) != 1:
            raise ValueError(f"Expected exactly one row, got {len(rows)}.")
        row: tuple[Any, ...] = rows[0]
        return row

    def first(self) -> tuple[Any, ...] | None:
        """The first row, None if there is none."""
        row: tuple[Any, ...] | None = self._cursor.fetchone()
        self._cursor.close()
        return row


class Sql:
    """`ctx.storage.sql`."""

    __slots__ = ("_storage",)

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def exec(self, sql: str, *parameters: SqlValue) -> SqlCursor:
        """Run a statement. Raises `StorageFull` when the disk is full: the object then starts again from what is
        durable."""
        return SqlCursor(self._storage.execute(sql, parameters))

    @property
    def database_size(self) -> int:
        """Bytes of the database, without its log."""
        return self._storage.committer.database.size_bytes


class ObjectStorage:
    """One object's database with its implicit transaction and its alarm."""

    def __init__(self, committer: Committer) -> None:
        self.sql = Sql(self)
        self.committer = committer
        self._savepoints = 0
        #: Set while `alarm()` runs, until the handler sets or deletes the alarm.
        self.alarm_hidden = False
        #: Set when the alarm was written since the last commit.
        self.alarm_touched = False

    def create_tables(self) -> None:
        self.execute(_ALARM_TABLE)

    def execute(self, sql: str, parameters: tuple[SqlValue, ...] = ()) -> apsw.Cursor:
        return self.committer.execute(sql, parameters)

    def transaction_sync(self, work: Callable[[], T]) -> T:
        """Call `work`; if it raises, what it wrote is undone. Nests. `work` must not be a coroutine function."""
        self._savepoints += 1
        name = f"_penstock_{self._savepoints}"
        alarm_hidden = self.alarm_hidden
        try:
            self.execute(f"SAVEPOINT {name}")
            try:
                result = work()
            except BaseException:
                self.alarm_hidden = alarm_hidden
                if self.committer.broken is None:
                    self.execute(f"ROLLBACK TO {name}")
                    self.execute(f"RELEASE {name}")
                raise
            self.execute(f"RELEASE {name}")
            return result
        finally:
            self._savepoints -= 1

    async def sync(self) -> None:
        """Return when everything written so far is durable."""
        await self.committer.wait_durable()

    async def give_back_space(self) -> None:
        """Return free pages to the file system, if they are many: after a backlog, say. In slices, between which
        others run; the file itself shrinks with the next checkpoint."""
        page_size: int = self.execute("PRAGMA page_size").get
        while True:
            pages: int = self.execute("PRAGMA page_count").get
            free: int = self.execute("PRAGMA freelist_count").get
            if free * page_size < FREE_BYTES_KEPT or free < pages // 2:
                return
            self.execute(f"PRAGMA incremental_vacuum({FREE_SLICE_BYTES // page_size})").fetchall()
            await self.sync()

    def reader(self) -> AbstractContextManager[Reader]:
        """A reader of durable rows, for use beside the loop (in `ctx.buckets.put`'s `chunks`, say)."""
        return self.committer.database.reader()

    # -- alarm ------------------------------------------------------------------------------------------

    def get_alarm(self) -> int | None:
        """When the alarm fires, milliseconds since the Unix epoch; None if none is set. While `alarm()` runs the
        alarm that it runs for is gone."""
        if self.alarm_hidden:
            return None
        alarm = self.read_alarm()
        return alarm.at_ms if alarm is not None and not alarm.failed else None

    def set_alarm(self, at_ms: int) -> None:
        """Let `alarm()` be called at `at_ms` (at once if that has passed), replacing the alarm there was."""
        self.write_alarm(Alarm(at_ms))

    def delete_alarm(self) -> None:
        self.write_alarm(None)

    def read_alarm(self) -> Alarm | None:
        row = self.execute("SELECT at_ms, retries, failed FROM _penstock_alarm").fetchone()
        return Alarm(row[0], row[1], bool(row[2])) if row else None

    def write_alarm(self, alarm: Alarm | None) -> None:
        self.alarm_hidden = False
        self.alarm_touched = True
        if alarm is None:
            self.execute("DELETE FROM _penstock_alarm")
        else:
            self.execute(
                "INSERT INTO _penstock_alarm VALUES (0, ?1, ?2, ?3) ON CONFLICT DO UPDATE"
                " SET at_ms = excluded.at_ms, retries = excluded.retries, failed = excluded.failed",
                (alarm.at_ms, alarm.retries, alarm.failed),
            )
