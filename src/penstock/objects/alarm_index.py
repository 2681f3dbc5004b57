"""The durable index of alarms: it finds the objects that must wake, in memory or not.

One per executor, for the objects that the executor owns. Its invariants are in `alarm.py`. Finding what is due
costs two look-ups in an index, however many alarms are pending.

When the index cannot be written, on a full disk say, it is opened again until it can. Meanwhile whoever needs it
is refused with the reason, and no harm is done by what was lost of it: of the changes that nobody waits for, each
moves an entry to a later time or removes it, and an entry that stays early is put right when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import apsw
import structlog

from penstock.base.errors import Fenced, PenstockError, Unavailable
from penstock.base.limits import ALARMS_RUNNING_MAX
from penstock.objects.committer import Committer
from penstock.objects.identity import ObjectId
from penstock.objects.placement import owner
from penstock.storage.database import Database
from penstock.storage.disk import Disk
from penstock.storage.ports import Ports

log = structlog.get_logger("penstock.objects")

_TABLE = (
    "CREATE TABLE IF NOT EXISTS alarms (namespace TEXT NOT NULL, key TEXT NOT NULL, name TEXT,"
    " at_ms INTEGER NOT NULL, PRIMARY KEY (namespace, key)) STRICT, WITHOUT ROWID"
)
_TIMES = "CREATE INDEX IF NOT EXISTS alarms_by_time ON alarms (at_ms)"
_SET = (
    "INSERT INTO alarms VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET at_ms = excluded.at_ms"
    " WHERE at_ms <> excluded.at_ms"
)
#: Both are a look into the index by time, and read no entry that is not asked for.
_DUE = "SELECT namespace, key, name FROM alarms WHERE at_ms <= ?1 ORDER BY at_ms LIMIT ?2"
_NEXT = "SELECT min(at_ms) FROM alarms WHERE at_ms > ?1"
_REMOVE = "DELETE FROM alarms WHERE namespace = ?1 AND key = ?2"
#: An object that could not be woken (its disk is full, say) is tried again after this time.
_RETRY_MS = 1_000
#: Waiting longer than this in one go would notice a jump of the wall clock too late.
_SLEEP_MS_MAX = 1_000


class AlarmIndex:
    """`fire` is called for each entry that is due, by one task per object at a time. It gives True when it has
    settled the entry; one that it left as it was is not fired again before somebody settles it, or a while has
    passed. `on_fatal` is called when nothing can be made durable any more."""

    def __init__(
        self,
        ports: Ports,
        path: str,
        tasks: asyncio.TaskGroup,
        *,
        fire: Callable[[ObjectId], Awaitable[bool]],
        on_fatal: Callable[[PenstockError], None],
    ) -> None:
        self._ports = ports
        self._path = path
        self._tasks = tasks
        self._fire = fire
        self._on_fatal = on_fatal
        self._committer: Committer
        self._running: set[ObjectId] = set()
        #: Entries that are left alone for now, until this loop time (a wall clock may jump).
        self._not_before_ms: dict[ObjectId, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Raises what `Database.open` raises."""
        database = await self._ports.offload.run("database", partial(Database.open, self._ports.disk, self._path))
        self._committer = Committer(database, self._ports.relay, "alarms", self._tasks, on_broken=self._on_broken)
        _create_tables(self._committer.execute)
        await self._committer.wait_durable()

    async def close(self) -> None:
        """Fire nothing more; whoever uses the index from now on gets `Unavailable`. What was not committed yet is
        lost: entries that stay early do no harm."""
        self._closed = True
        if self._committer.broken is None:
            self._committer.break_with(Unavailable("The index of alarms is closed.", retry_after_s=1))
            await self._close_database()

    async def _close_database(self) -> None:
        await self._committer.wait_shipped()
        await self._ports.offload.run("database", self._committer.database.close)

    def _on_broken(self, error: PenstockError) -> None:
        if isinstance(error, Fenced):
            self._on_fatal(error)
        elif not self._closed:
            log.warning("alarm_index_broken", error=error.message)
            self._tasks.create_task(self._open_again())

    async def _open_again(self) -> None:
        try:
            await self._close_database()
        except PenstockError as error:
            log.warning("alarm_index_not_closed_cleanly", error=error.message)
        while not self._closed:
            try:
                await self.open()
            except Fenced as error:
                self._on_fatal(error)
                return
            except PenstockError as error:
                log.warning("alarm_index_not_opened", error=error.message)
                await self._ports.clock.sleep_ms(_RETRY_MS)
            else:
                self._changed.set()
                return

    @property
    def pending(self) -> int | None:
        """Entries in the index; None while it is broken."""
        try:
            count: int = self._committer.execute("SELECT count(*) FROM alarms").get
        except PenstockError:
            return None
        return count

    def indexed_ms(self, id: ObjectId) -> int | None:
        """When the entry of this object fires, None if it has none. Raises a `PenstockError` while the index is
        broken, as `schedule` and `settle` do."""
        row = self._committer.execute(
            "SELECT at_ms FROM alarms WHERE namespace = ?1 AND key = ?2", (id.namespace, id.key)
        ).fetchone()
        return row[0] if row else None

    async def schedule(self, id: ObjectId, at_ms: int) -> None:
        """Make an entry, or move it; durable on return."""
        self.settle(id, at_ms)
        await self._committer.wait_durable()

    def settle(self, id: ObjectId, at_ms: int | None) -> None:
        """Move an entry, or remove it; durable some time later."""
        if at_ms is None:
            self._committer.execute(_REMOVE, (id.namespace, id.key))
        else:
            self._committer.execute(_SET, (id.namespace, id.key, id.name, at_ms))
        self._not_before_ms.pop(id, None)
        self._changed.set()

    async def run(self) -> None:
        """Fire what is due, until it is closed."""
        while not self._closed:
            self._changed.clear()
            try:
                wait_ms = self._fire_due(self._ports.clock.now_ms())
            except PenstockError:
                wait_ms = _RETRY_MS  # it is being opened again, and says so itself
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _fire_due(self, now_ms: int) -> int:
        """Start what is due; gives the time until the next look, in milliseconds."""
        next_ms: int | None = self._committer.execute(_NEXT, (now_ms,)).get
        wait_ms = _SLEEP_MS_MAX if next_ms is None else min(_SLEEP_MS_MAX, next_ms - now_ms)
        rows: list[tuple[Any, ...]] = self._committer.execute(
            _DUE, (now_ms, ALARMS_RUNNING_MAX + len(self._running) + len(self._not_before_ms))
        ).fetchall()
        elapsed_ms = self._ports.clock.elapsed_ms()
        for namespace, key, name in rows:
            id = ObjectId(namespace, name, key)
            if id in self._running or len(self._running) >= ALARMS_RUNNING_MAX:
                continue
            pause_ms = self._not_before_ms.get(id, 0) - elapsed_ms
            if pause_ms > 0:
                wait_ms = min(wait_ms, pause_ms)
                continue
            self._running.add(id)
            self._not_before_ms.pop(id, None)
            self._tasks.create_task(self._fire_one(id))
        return wait_ms

    async def _fire_one(self, id: ObjectId) -> None:
        settled = False
        try:
            settled = await self._fire(id)
        except PenstockError as error:
            log.warning("alarm_not_fired", object=id.label, error=error.message)
        finally:
            self._running.discard(id)
            if not settled:
                self._not_before_ms[id] = self._ports.clock.elapsed_ms() + _RETRY_MS
            self._changed.set()


def _create_tables(execute: Callable[..., apsw.Cursor]) -> None:
    """Make the table, or make it over: entries were kept by name when every object had one. May be cut short."""
    columns = [column for (column,) in execute("SELECT name FROM pragma_table_info('alarms')")]
    if columns and "key" not in columns:
        execute("ALTER TABLE alarms RENAME TO alarms_by_name")
    execute(_TABLE)
    if execute("SELECT 1 FROM sqlite_schema WHERE name = 'alarms_by_name'").fetchone():
        rows: list[tuple[Any, ...]] = execute("SELECT namespace, name, at_ms FROM alarms_by_name").fetchall()
        for namespace, name, at_ms in rows:
            execute(_SET, (namespace, ObjectId(namespace, name).key, name, at_ms))
        execute("DROP TABLE alarms_by_name")
    execute(_TIMES)


def rehome(disk: Disk, folder: str, executors: int) -> None:
    """Put every index entry under the executor that owns its object, after the number of executors changed.

    Blocks; run it before the executors start. Entries are copied before they are removed, so a crash leaves at
    worst an entry twice, which fires once too often and is put right.
    """
    for name in disk.list_dir(folder):
        if not name.endswith(".db"):
            continue
        slot = int(name.removesuffix(".db"))
        database = Database.open(disk, f"{folder}/{name}")
        _create_tables(database.execute)
        strangers: dict[int, list[tuple[Any, ...]]] = {}
        row: tuple[Any, ...]
        for row in database.execute("SELECT namespace, key, name, at_ms FROM alarms"):
            home = owner(row[1], executors)
            if home != slot:
                strangers.setdefault(home, []).append(row)
        for home, rows in strangers.items():
            _adopt(disk, f"{folder}/{home}.db", rows)
            for namespace, key, _, _ in rows:
                database.execute(_REMOVE, (namespace, key))
        database.close()


#: An entry that is there already may be the truth, and one too early does no harm.
_ADOPT = "INSERT INTO alarms VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET at_ms = min(at_ms, excluded.at_ms)"


def _adopt(disk: Disk, path: str, rows: list[tuple[Any, ...]]) -> None:
    database = Database.open(disk, path)
    _create_tables(database.execute)
    for row in rows:
        database.execute(_ADOPT, row)
    database.close()


def forget_namespace(disk: Disk, folder: str, namespace: str) -> None:
    """Remove the entries of all objects of a namespace. Blocks; run it before the executors start."""
    for name in disk.list_dir(folder):
        if name.endswith(".db"):
            database = Database.open(disk, f"{folder}/{name}")
            _create_tables(database.execute)
            database.execute("DELETE FROM alarms WHERE namespace = ?1", (namespace,))
            database.close()
