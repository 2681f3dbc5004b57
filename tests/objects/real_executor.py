"""Executor 1 of two as a process of its own, which can be stopped and killed: `python real_executor.py FOLDER`.

It says `ready`, or why it could not start, and runs until it is killed."""

from __future__ import annotations

import asyncio
import sys

from penstock.base.clock import SystemClock
from penstock.base.errors import PenstockError
from penstock.base.rng import seeded_rng
from penstock.objects import AlarmInfo, Context, DurableObject, Runtime
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.transport import UnixTransport

EXECUTORS = 2


class Ledger(DurableObject[None]):
    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS entries (place INTEGER PRIMARY KEY, n)")
        self.sql.exec("CREATE TABLE IF NOT EXISTS wakings (n)")

    def add(self, n: int) -> int:
        """Gives its place, 1, 2, ..."""
        place: int = self.sql.exec("INSERT INTO entries (n) VALUES (?1) RETURNING place", n).one()[0]
        return place

    def entries(self) -> list[int]:
        return [n for (n,) in self.sql.exec("SELECT n FROM entries ORDER BY place")]

    def wake_in(self, ms: int) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + ms)

    async def alarm(self, info: AlarmInfo) -> None:
        self.sql.exec("INSERT INTO wakings VALUES (?1)", info.retries)

    def wakings(self) -> list[int]:
        return [n for (n,) in self.sql.exec("SELECT n FROM wakings")]


def make_executor(folder: str, slot: int, tasks: asyncio.TaskGroup) -> tuple[Runtime, UnixTransport]:
    """The parts of an executor, its relay running."""
    clock, disk, offload = SystemClock(), OsDisk(), Threads()
    relay = LocalRelay(offload, clock, _fatal)
    tasks.create_task(relay.run())
    transport = UnixTransport(folder, slot, tasks)
    ports = Ports(
        clock=clock,
        rng=seeded_rng(slot),
        disk=disk,
        offload=offload,
        relay=relay,
        transport=transport,
        buckets=FolderStore(disk, offload, f"{folder}/buckets", f"{folder}/unfinished"),
    )
    runtime = Runtime(ports, folder, slot=slot, executors=EXECUTORS, tasks=tasks, on_fatal=_fatal)
    runtime.register(Ledger)
    return runtime, transport


def _fatal(error: PenstockError) -> None:
    raise AssertionError(error)


async def main(folder: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        runtime, transport = make_executor(folder, 1, tasks)
        try:
            await runtime.start()
        except PenstockError as error:
            print(error.kind, error.message, flush=True)
            sys.exit(1)
        await transport.serve(runtime.answer, runtime.answer_streams)
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
