"""Row C4 of the list of faults: an executor is paused in the middle of whatever it does, and goes on later.

On one machine nobody takes over what a paused executor owns: the supervisor replaces the dead only, and the lock
on each database keeps a second process out. So callers wait for a while and are told `Unavailable`, and what the
executor was asked before it stopped it does, once, when it goes on.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.base.errors import PenstockError, Unavailable
from penstock.objects import Stub
from penstock.objects.placement import name_owned_by

from .real_executor import EXECUTORS, make_executor

TIMEOUT_MS = 400
PROGRAM = Path(__file__).with_name("real_executor.py")


class _Ended(Exception):
    pass


class Pair:
    """Executor 0 in this process, executor 1 in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[asyncio.subprocess.Process] = []
        self.ledger: Stub

    async def spawn(self) -> str:
        """Start executor 1; gives what it says."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), str(self.folder), stdout=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        return (await process.stdout.readline()).decode().strip()

    def pause(self) -> None:
        self.processes[0].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.processes[0].send_signal(signal.SIGCONT)

    async def end(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    try:
        async with asyncio.TaskGroup() as tasks:
            made = Pair(folder)
            runtime, transport = make_executor(str(folder), 0, tasks)
            await runtime.start()
            assert await made.spawn() == "ready"
            made.ledger = runtime.namespace("Ledger").get_by_name(name_owned_by("Ledger", "a", 1, EXECUTORS))
            try:
                yield made
            finally:
                await made.end()
            transport.close()
            await runtime.stop()
            raise _Ended
    except* _Ended:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.storage.transport.CALL_TIMEOUT_MS", TIMEOUT_MS)


def run(tmp_path: Path, main: Callable[[Pair], Awaitable[None]]) -> None:
    async def live() -> None:
        async with asyncio.timeout(30), pair(tmp_path) as made:
            await main(made)

    asyncio.run(live())


async def until(ask: Callable[[], Awaitable[list[int]]], expected: list[int]) -> None:
    for _ in range(500):
        if await ask() == expected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(await ask())


class History:
    """Numbers are added one after the other by several clients; what each was told is kept."""

    def __init__(self, ledger: Stub) -> None:
        self.places: dict[int, int] = {}
        self.unknown: set[int] = set()
        self._ledger = ledger
        self._next = 0

    async def write(self, until: asyncio.Event) -> None:
        while not until.is_set():
            n, self._next = self._next, self._next + 1
            try:
                self.places[n] = await self._ledger.add(n)
            except Unavailable:
                self.unknown.add(n)

    def check(self, entries: list[int]) -> None:
        assert len(entries) == len(set(entries)), "something took effect twice"
        for n, place in self.places.items():
            assert entries[place - 1] == n, "an acknowledged write moved or was lost"
        assert set(entries) <= self.places.keys() | self.unknown


def test_C4_a_paused_executor_is_unavailable_and_does_once_what_it_was_asked_before(tmp_path: Path) -> None:
    async def main(made: Pair) -> None:
        await made.ledger.add(1)
        made.pause()
        with pytest.raises(Unavailable) as caught:
            await made.ledger.add(2)
        assert caught.value.retryable and not caught.value.remote
        made.resume()
        await until(made.ledger.entries, [1, 2])
        assert await made.ledger.add(3) == 3

    run(tmp_path, main)


def test_C4_pauses_at_any_moment_leave_one_history(tmp_path: Path) -> None:
    async def main(made: Pair) -> None:
        rng, done = random.Random(4), asyncio.Event()
        history = History(made.ledger)
        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(history.write(done))
            for _ in range(12):
                await asyncio.sleep(rng.uniform(0.001, 0.1))
                made.pause()
                await asyncio.sleep(rng.choice([0.002, 0.05, TIMEOUT_MS / 1000 + 0.1]))
                made.resume()
            await asyncio.sleep(0.1)
            done.set()
        history.check(await made.ledger.entries())
        assert history.unknown and len(history.places) > 50

    run(tmp_path, main)


def test_C4_nobody_takes_over_from_a_paused_executor_and_what_it_acknowledged_is_there_after_its_death(
    tmp_path: Path,
) -> None:
    async def main(made: Pair) -> None:
        done = asyncio.Event()
        history = History(made.ledger)
        async with asyncio.TaskGroup() as clients:
            clients.create_task(history.write(done))
            await asyncio.sleep(0.1)
            made.pause()
            said = await made.spawn()
            assert said.startswith("unavailable") and "another process" in said
            done.set()
        made.processes[0].kill()
        await made.processes[0].wait()
        assert await made.spawn() == "ready"
        entries = await _patiently(made.ledger)
        history.check(entries)
        assert entries[: len(history.places)] == sorted(history.places)  # nothing stale: all of it, in order

    run(tmp_path, main)


async def _patiently(ledger: Stub) -> list[int]:
    while True:
        try:
            entries: list[int] = await ledger.entries()
        except PenstockError:
            await asyncio.sleep(0.02)
        else:
            return entries


def test_C4_an_alarm_that_was_due_in_a_pause_fires_once_after_it(tmp_path: Path) -> None:
    async def main(made: Pair) -> None:
        await made.ledger.wake_in(100)
        made.pause()
        await asyncio.sleep(0.4)
        made.resume()
        await until(made.ledger.wakings, [0])
        await asyncio.sleep(1.2)  # longer than an entry of the index waits before it fires again
        assert await made.ledger.wakings() == [0]

    run(tmp_path, main)
