"""Calls of objects: how many a second, beside the bare statements, in one process and across two."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import processes
from bench.bare import Bare, Syncer
from bench.executor import active_possible, executor, sibling
from penstock.objects import Runtime, Stub
from penstock.objects.placement import name_owned_by

EXECUTORS = 2
VALUE = bytes(range(100))
CALLERS = (64, 1)
METHODS = ("read", "write")

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Load:
    """One run: `callers` callers, each calling again when it was answered."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    #: Processor time of all processes that took part.
    processor_s: float

    @property
    def per_s(self) -> float:
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Target:
    """What is called: one database or many, bare or as objects, here or in another process."""

    side: str
    targets: Sequence[Any]
    pids: Sequence[int]

    @property
    def spread(self) -> int:
        return len(self.targets)

    def calls(self, method: str) -> Iterator[Call]:
        argument: object = VALUE if method == "write" else 1
        return itertools.cycle([partial(getattr(target, method), argument) for target in self.targets])


@dataclass(frozen=True, slots=True)
class Case:
    """All runs of one target with one method and so many callers."""

    target: Target
    method: str
    callers: int
    loads: list[Load]


async def load(
    calls: Iterator[Call], callers: int, seconds: float, pids: Sequence[int], *, gives_way: bool
) -> Load:
    """`gives_way`: each caller lets the loop turn between its calls. For calls that wait for nothing: otherwise one
    caller would make them all, in one turn of the loop, as no server could."""
    took: list[float] = []

    async def caller(ends_at: float) -> None:
        now = time.perf_counter()
        while now < ends_at:
            await next(calls)()
            ended = time.perf_counter()
            took.append(ended - now)
            if gives_way:
                await asyncio.sleep(0)
                ended = time.perf_counter()
            now = ended

    processor_s, started = processes.processor_s(pids), time.perf_counter()
    await asyncio.gather(*(caller(started + seconds) for _ in range(callers)))
    elapsed, processor_s = time.perf_counter() - started, processes.processor_s(pids) - processor_s
    return Load(len(took), elapsed, quantile_ms(took, 0.5), quantile_ms(took, 0.99), processor_s)


def quantile_ms(took_s: Sequence[float], part: float) -> float:
    return sorted(took_s)[min(len(took_s) - 1, int(len(took_s) * part))] * 1e3


async def at_once(calls: Sequence[Call], callers: int = 64) -> None:
    """Every call once, at most `callers` of them under way."""
    left = iter(calls)

    async def caller() -> None:
        for call in left:
            await call()

    await asyncio.gather(*(caller() for _ in range(callers)))


@asynccontextmanager
async def _targets(folder: Path, spread: int) -> AsyncIterator[list[Target]]:
    """Everything that is called, open and warm."""
    ours, theirs = folder / "executors", folder / "bare"
    ours.mkdir(parents=True)
    theirs.mkdir()
    here = (os.getpid(),)
    async with executor(ours, slot=0, executors=EXECUTORS) as runtime:
        with (
            sibling(ours, slot=1, executors=EXECUTORS, active_max=spread + 1) as other,
            _bares(theirs, spread) as bares,
        ):
            local, remote = (_stubs(runtime, slot, spread) for slot in range(EXECUTORS))
            both = (*here, other.pid)
            everything: list[Any] = [*bares, *local, *remote]
            await at_once([partial(target.write, VALUE) for target in everything])
            yield [
                Target("bare", bares[:1], here),
                Target("same process", local[:1], here),
                Target("other process", remote[:1], both),
                Target("bare", bares, here),
                Target("same process", local, here),
                Target("other process", remote, both),
            ]


@contextlib.contextmanager
def _bares(folder: Path, count: int) -> Iterator[list[Bare]]:
    syncer = Syncer()
    bares = [Bare(folder / f"{n}.db", syncer) for n in range(count)]
    yield bares
    syncer.close()
    for bare in bares:
        bare.close()


def _stubs(runtime: Runtime, slot: int, count: int) -> list[Stub]:
    namespace = runtime.namespace("Notes")
    names = (name_owned_by("Notes", f"note-{n}", slot, EXECUTORS) for n in range(count))
    return [namespace.get_by_name(name) for name in names]


async def measure(folder: Path, *, spread: int, seconds: float, rounds: int) -> list[Case]:
    """Raises RuntimeError if an acknowledged write is missing, or one is there twice."""
    # Half of the files that this process may have open are the bare databases'.
    spread = active_possible(2 * spread) // 2
    async with _targets(folder, spread) as targets:
        cases = [Case(t, method, callers, []) for method in METHODS for callers in CALLERS for t in targets]
        for _ in range(rounds):
            for case in cases:
                calls = case.target.calls(case.method)
                gives_way = case.method == "read"
                case.loads.append(await load(calls, case.callers, seconds, case.target.pids, gives_way=gives_way))
        for target in targets[-2:]:
            await _check_counts(target, cases)
    return cases


async def _check_counts(target: Target, cases: Sequence[Case]) -> None:
    """Of the objects of one process, against what was acknowledged, the first write of each included."""
    counts: list[int] = await asyncio.gather(*(stub.count() for stub in target.targets))
    writes = [case for case in cases if case.target.side == target.side and case.method == "write"]
    acknowledged = target.spread + sum(load.calls for case in writes for load in case.loads)
    if sum(counts) != acknowledged:
        raise RuntimeError(f"{target.side}: {acknowledged} writes were acknowledged, {sum(counts)} are there")
