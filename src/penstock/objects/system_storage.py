"""What is behind `ctx.storage`, with what only the runtime may use: statements of ours, the alarm as it is kept.

What is documented in `storage.py` is not documented here again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import apsw

from penstock.base.errors import Invalid
from penstock.base.limits import FREE_BYTES_KEPT, FREE_SLICE_BYTES
from penstock.objects.alarm import Alarm
from penstock.objects.committer import Committer
from penstock.objects.kv import Kv
from penstock.objects.sandbox import RESERVED_PREFIX, Sandbox
from penstock.objects.sql import Sql
from penstock.storage.database import Reader, SqlValue

T = TypeVar("T")

_ALARM_TABLE = """
CREATE TABLE IF NOT EXISTS _penstock_alarm (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  at_ms INTEGER NOT NULL,
  retries INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0
) STRICT
"""
#: Databases are older than this column.
_HAS_TRIES = "SELECT 1 FROM pragma_table_info('_penstock_alarm') WHERE name = 'tries'"
_ADD_TRIES = "ALTER TABLE _penstock_alarm ADD COLUMN tries INTEGER NOT NULL DEFAULT 0"
#: An alarm that is there already changes nothing, and so commits nothing.
_SET_ALARM = """
INSERT INTO _penstock_alarm VALUES (0, ?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
SET at_ms = excluded.at_ms, retries = excluded.retries, failed = excluded.failed, tries = excluded.tries
WHERE (at_ms, retries, failed, tries) <> (excluded.at_ms, excluded.retries, excluded.failed, excluded.tries)
"""
#: Virtual tables first: their shadow tables go with them.
_EVERYTHING = f"""
SELECT type, name FROM sqlite_schema
WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_'
  AND (substr(name, 1, {len(RESERVED_PREFIX)}) <> '{RESERVED_PREFIX}' OR name = '_penstock_kv')
ORDER BY sql LIKE 'CREATE VIRTUAL %' DESC
"""
_TRIGGERS = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AT_MS_MAX = (1 << 63) - 1


class SystemStorage:
    """One object's database with its implicit transaction and its alarm."""

    def __init__(self, committer: Committer) -> None:
        self.committer = committer
        self._savepoints = 0
        #: Set while `alarm()` runs, until the handler sets or deletes the alarm.
        self.alarm_hidden = False
        #: Set when the alarm was written since the last commit.
        self.alarm_touched = False

    @cached_property
    def sql(self) -> Sql:
        if self.committer.broken is not None:
            raise self.committer.broken
        return Sql(self)

    @cached_property
    def kv(self) -> Kv:
        return Kv(self)

    def create_tables(self) -> None:
        self.execute(_ALARM_TABLE)
        if self.execute(_HAS_TRIES).fetchone() is None:
            self.execute(_ADD_TRIES)

    def execute(self, sql: str, parameters: tuple[SqlValue, ...] = ()) -> apsw.Cursor:
        """Run a statement of ours."""
        return self.committer.execute(sql, parameters)

    def transaction_sync(self, work: Callable[[], T]) -> T:
        self._savepoints += 1
        name = f"_penstock_{self._savepoints}"
        alarm_hidden = self.alarm_hidden
        try:
            self.execute(f"SAVEPOINT {name}")
            try:
                result = work()
                if inspect.iscoroutine(result):
                    result.close()
                    raise Invalid(
                        "transaction_sync takes a plain function, which awaits nothing; not an async one."
                    )
            except BaseException:
                self.alarm_hidden = alarm_hidden
                self.kv.forget()
                if self.committer.broken is None:
                    self.execute(f"ROLLBACK TO {name}")
                    self.execute(f"RELEASE {name}")
                raise
            self.execute(f"RELEASE {name}")
            return result
        finally:
            self._savepoints -= 1

    async def sync(self) -> None:
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

    def delete_all(self) -> None:
        if self._savepoints:
            raise Invalid("delete_all cannot be undone, so it is not allowed within transaction_sync.")
        try:
            self.transaction_sync(self._drop_everything)
        except apsw.LockedError as error:
            raise Invalid("delete_all needs all cursors to be read to their end, or let go.") from error
        self.kv.forget()

    def _drop_everything(self) -> None:
        row: tuple[Any, ...]
        # Without foreign keys: else the order of the tables would matter, and there may be none that is right.
        with self.committer.database.foreign_keys_off():
            for row in self.execute(_TRIGGERS).fetchall():
                self.execute(f"DROP TRIGGER {_quoted(row[0])}")
            for row in self.execute(_EVERYTHING).fetchall():
                kind, name = row
                # It may have gone with a virtual table.
                self.execute(f"DROP {kind} IF EXISTS {_quoted(name)}")
        self.delete_alarm()

    def reader(self) -> AbstractContextManager[Reader]:
        """A reader of durable rows, for use beside the loop (in `ctx.buckets.put`'s `chunks`, say)."""
        return self.committer.database.reader(Sandbox().authorize)

    # -- alarm ------------------------------------------------------------------------------------------

    def get_alarm(self) -> int | None:
        if self.alarm_hidden:
            return None
        alarm = self.read_alarm()
        return alarm.at_ms if alarm is not None and not alarm.failed else None

    def set_alarm(self, at: int | datetime) -> None:
        self.write_alarm(Alarm(_to_ms(at)))

    def delete_alarm(self) -> None:
        self.write_alarm(None)

    def read_alarm(self) -> Alarm | None:
        row = self.execute("SELECT at_ms, retries, failed, tries FROM _penstock_alarm").fetchone()
        return Alarm(row[0], row[1], bool(row[2]), row[3]) if row else None

    def write_alarm(self, alarm: Alarm | None) -> None:
        self.alarm_hidden = False
        self.alarm_touched = True
        if alarm is None:
            # The condition is for SQLite, which without one clears the table even if it is empty.
            self.execute("DELETE FROM _penstock_alarm WHERE id = 0")
        else:
            self.execute(_SET_ALARM, (alarm.at_ms, alarm.retries, alarm.failed, alarm.tries))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _to_ms(at: int | datetime) -> int:
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise Invalid(f"The alarm's time {at.isoformat()} has no time zone; datetime.now(UTC), say, has one.")
        # Rounded up, so that it never fires before its time.
        return max(0, -((_EPOCH - at) // timedelta(milliseconds=1)))
    if isinstance(at, bool) or not isinstance(at, int):
        raise Invalid(f"The alarm's time is an int (ms) or a datetime, not {type(at).__name__}.")
    if at > _AT_MS_MAX:
        raise Invalid(f"The alarm's time is {at} ms; the limit is 2^63 - 1.")
    return max(0, at)
