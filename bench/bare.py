"""The baseline of `bench.objects`: the same statements on bare SQLite, made durable in the same way.

As in `bench/floor.py`: one connection in WAL mode, which never syncs or copies back by itself; writes that arrive
in one turn of the loop share a transaction, which is committed on the next turn; one thread syncs, and all that is
committed while a round of syncs is under way shares the next. No gate, no stub, no alarm, no copying of arguments.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from bench import processes

#: What both sides run.
TABLE = "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, value BLOB)"
WRITE = "INSERT INTO notes (value) VALUES (?1)"
READ = "SELECT value FROM notes WHERE id = ?1"

Waiting = list[asyncio.Future[None]]


class Syncer:
    """One thread: each round syncs every log that was written since the last."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1)
        self._unsynced: dict[int, Waiting] = {}
        self._syncing: dict[int, Waiting] = {}

    def take(self, wal: int, waiting: Waiting) -> None:
        self._unsynced.setdefault(wal, []).extend(waiting)
        if not self._syncing:
            self._sync()

    def _sync(self) -> None:
        self._syncing, self._unsynced = self._unsynced, {}
        round_ = self._loop.run_in_executor(self._thread, _sync_all, list(self._syncing))
        round_.add_done_callback(self._synced)

    def _synced(self, done: asyncio.Future[None]) -> None:
        done.result()
        for waiting in self._syncing.values():
            for durable in waiting:
                if not durable.done():
                    durable.set_result(None)
        self._syncing = {}
        if self._unsynced:
            self._sync()

    def close(self) -> None:
        self._thread.shutdown()


def _sync_all(wals: list[int]) -> None:
    for wal in wals:
        _datasync(wal)


def _datasync(fd: int) -> None:
    getattr(os, "fdatasync", os.fsync)(fd)  # macOS has no fdatasync


class Bare:
    """One database."""

    def __init__(self, path: Path, syncer: Syncer) -> None:
        self._loop = asyncio.get_running_loop()
        self._syncer = syncer
        self._sql = _connect(path)
        self._sql.execute(TABLE)
        self._wal = os.open(f"{path}-wal", os.O_RDWR)
        self._uncommitted: Waiting = []

    def write(self, value: bytes) -> asyncio.Future[None]:
        """Done when the row is durable."""
        if not self._uncommitted:
            self._sql.execute("BEGIN")
            self._loop.call_soon(self._commit)
        self._sql.execute(WRITE, (value,))
        durable = self._loop.create_future()
        self._uncommitted.append(durable)
        return durable

    def _commit(self) -> None:
        self._sql.execute("COMMIT")
        waiting, self._uncommitted = self._uncommitted, []
        self._syncer.take(self._wal, waiting)

    async def read(self, id: int) -> bytes | None:
        row = self._sql.execute(READ, (id,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        os.close(self._wal)
        self._sql.close()


def _connect(path: Path) -> apsw.Connection:
    sql = apsw.Connection(str(path), vfs="unix-excl")
    sql.pragma("journal_mode", "wal")
    sql.pragma("synchronous", "normal")
    sql.pragma("wal_autocheckpoint", 0)
    return sql


async def _print_memory(folder: Path, number: int) -> None:
    """Of so many open databases with a row, in MB."""
    before = processes.memory_bytes([os.getpid()])
    syncer = Syncer()
    bares = [Bare(folder / f"{n}.db", syncer) for n in range(number)]
    for bare in bares:
        await bare.write(bytes(100))
    print((processes.memory_bytes([os.getpid()]) - before) / 1e6)


def open_with_a_row(path: Path) -> apsw.Connection:
    """What activating an object cannot do without: open or create, one row (which opening it is), and everything
    durable, its name too. Blocks."""
    sql = _connect(path)
    with sql:
        sql.execute(TABLE)
        sql.execute(WRITE, (b"opened",))
    for name, flags in ((f"{path}-wal", os.O_RDWR), (str(path.parent), os.O_RDONLY)):
        fd = os.open(name, flags)
        _datasync(fd)
        os.close(fd)
    return sql


if __name__ == "__main__":
    asyncio.run(_print_memory(Path(sys.argv[1]), int(sys.argv[2])))
