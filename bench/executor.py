"""One executor on real ports, without HTTP: in this process, or as one of its own.

    python -m bench.executor FOLDER SLOT EXECUTORS ACTIVE_MAX

says how many seconds its start took and then serves siblings until it is ended.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from bench import processes
from bench.bare import READ, TABLE, WRITE
from penstock.base.clock import SystemClock
from penstock.base.errors import PenstockError
from penstock.base.limits import OBJECTS_ACTIVE_MAX
from penstock.base.rng import seeded_rng
from penstock.objects import AlarmInfo, Context, DurableObject, Runtime
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.sqlite_memory import spare_lookaside
from penstock.storage.transport import UnixTransport

#: What a process has open besides its objects: its code, connections, threads, the baseline's files apart.
_OTHER_FILES = 200
_FILES_PER_OBJECT = 3
_START_DEADLINE_S = 30


class Woken:
    """How many alarms have run, and when the last of `expected` did."""

    def __init__(self) -> None:
        self.expected = 0
        self._count = 0
        self._all = asyncio.Event()

    def add(self) -> None:
        self._count += 1
        if self._count == self.expected:
            self._all.set()

    async def all(self) -> None:
        await self._all.wait()


class Notes(DurableObject[Woken | None]):
    """The object that is called. An alarm writes a row too."""

    def __init__(self, ctx: Context, env: Woken | None) -> None:
        super().__init__(ctx, env)
        self._sql = ctx.storage.sql
        self._sql.exec(TABLE)

    def write(self, value: bytes) -> None:
        self._sql.exec(WRITE, value)

    def read(self, id: int) -> bytes | None:
        row = self._sql.exec(READ, id).first()
        return row[0] if row else None

    def count(self) -> int:
        count: int = self._sql.exec("SELECT count(*) FROM notes").one()[0]
        return count

    def wake_at(self, at_ms: int) -> None:
        self.ctx.storage.set_alarm(at_ms)

    async def alarm(self, info: AlarmInfo) -> None:
        self.write(b"woken")
        if self.env is not None:
            self.env.add()


class _Ended(Exception):
    pass


@asynccontextmanager
async def executor(
    folder: Path,
    *,
    slot: int = 0,
    executors: int = 1,
    active_max: int = OBJECTS_ACTIVE_MAX,
    woken: Woken | None = None,
) -> AsyncIterator[Runtime]:
    """A runtime that serves its siblings, until the end of the block."""
    clock, disk, offload = SystemClock(), OsDisk(str(folder)), Threads()
    relay = LocalRelay(offload, clock, _fatal)
    try:
        async with asyncio.TaskGroup() as tasks:
            transport = UnixTransport(str(folder), slot, tasks)
            buckets = FolderStore(disk, offload, f"{folder}/buckets", f"{folder}/unfinished")
            ports = Ports(clock, seeded_rng(slot), disk, offload, relay, transport, buckets)
            runtime = Runtime(
                ports,
                str(folder),
                slot=slot,
                executors=executors,
                tasks=tasks,
                on_fatal=_fatal,
                active_max=active_max,
            )
            tasks.create_task(relay.run())
            runtime.register(Notes, woken)
            await runtime.start()
            await transport.serve(runtime.answer, runtime.answer_streams)
            yield runtime
            transport.close()
            await runtime.stop()
            raise _Ended
    except* _Ended:
        offload.close()


def _fatal(error: PenstockError) -> None:
    raise error


def be_like_an_executor() -> None:
    """As `penstock serve` sets up its executors: as many files as allowed, quick changes between threads, few
    collections, SQLite's memory spared. Warnings go where they do not stand in the result."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    spare_lookaside()
    sys.setswitchinterval(0.0005)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def active_possible(wanted: int) -> int:
    """So many of `wanted` objects as one process may have the files of open."""
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files_max == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, (files_max - _OTHER_FILES) // _FILES_PER_OBJECT)


@dataclass(frozen=True, slots=True)
class Sibling:
    """An executor in a process of its own."""

    pid: int
    start_s: float


@contextmanager
def sibling(folder: Path, *, slot: int = 0, executors: int = 1, active_max: int) -> Iterator[Sibling]:
    output = folder.with_name(f"{folder.name}.log")
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.executor", str(folder), str(slot), str(executors), str(active_max)]
    process = processes.start(command, output)
    try:
        yield Sibling(process.pid, _wait_for_start(process, output))
    finally:
        processes.stop(process)


def _wait_for_start(process: subprocess.Popen[bytes], output: Path) -> float:
    ends_at = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < ends_at and process.poll() is None:
        for line in output.read_text().splitlines():
            if line.startswith("STARTED "):
                return float(line.removeprefix("STARTED "))
        time.sleep(0.02)
    raise RuntimeError(f"the executor did not start: {output.read_text()[-500:]}")


async def _serve(folder: Path, slot: int, executors: int, active_max: int) -> None:
    started = time.perf_counter()
    async with executor(folder, slot=slot, executors=executors, active_max=active_max):
        print(f"STARTED {time.perf_counter() - started}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    be_like_an_executor()
    uvloop.run(_serve(Path(sys.argv[1]), *map(int, sys.argv[2:])))
