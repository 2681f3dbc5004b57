"""Records through faults: does each acknowledged record end up in exactly one file?

Clients send numbered records to a pipeline while a nemesis kills executors, cuts the power, fills the disk, breaks
the bucket and sets the clock wrong. Then everything is healed, and the files are read:

    acknowledged (200)          in exactly one file, once
    refused (4xx, 507)          in none
    unknown (5xx, no answer)    once or not at all

All that happens is drawn from one seed, and `Outcome.digest` says whether two runs were the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import json

from penstock.base.limits import Limits
from penstock.base.rng import Rng, seeded_rng
from penstock.pipelines.compression import decompress
from penstock.pipelines.dead_letters import read_dead_letters
from penstock.pipelines.layout import DEAD_FOLDER, Compression
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine

BUCKET = "records"
_COMPRESSIONS: dict[str, Compression] = {"json": "none", "gz": "gzip", "deflate": "deflate", "zst": "zstd"}
_HOUR_MS = 3_600_000
#: Everything must be in a file this long after everything was healed; a broken bucket is tried again after a
#: minute at most.
_DRAIN_MS_MAX = 300_000
#: Between two steps of verifying the pipeline while it is under way.
_VERIFY_PAUSE_MS = (50, 1_000)


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    """`fault_pause_ms`: shortest and longest time between two faults."""

    duration_ms: int = 6_000
    clients: int = 5
    records_per_request_max: int = 20
    client_pause_ms: tuple[int, int] = (1, 120)
    fault_pause_ms: tuple[int, int] = (10, 800)


@dataclass(slots=True)
class Ledger:
    """What became of each record, by its number, as far as the clients know."""

    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)

    def problems(self, found: Counter[int]) -> list[str]:
        """What is wrong with the files, in words; empty if nothing is."""
        known = self.acknowledged | self.refused | self.unknown
        wrong = {
            "acknowledged, but in no file": self.acknowledged - found.keys(),
            "in the files more than once": {number for number, times in found.items() if times > 1},
            "refused, but in a file": self.refused & found.keys(),
            "in a file, but never sent": found.keys() - known,
        }
        return [f"{len(numbers)} {what}: {sorted(numbers)[:10]}" for what, numbers in wrong.items() if numbers]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `faults` counts those that happened, by name; `problems` is empty if every promise was kept."""

    seed: int
    digest: str
    acknowledged: int
    refused: int
    unknown: int
    files: int
    faults: dict[str, int]
    problems: list[str]
    #: The end of the trace.
    story: list[str]


def run_scenario(seed: int, settings: ScenarioSettings | None = None) -> Outcome:
    """One run, in a second or less."""
    return run_virtual(lambda loop: Scenario(loop, seed, settings or ScenarioSettings()).run())


class Scenario:
    def __init__(self, loop: VirtualLoop, seed: int, settings: ScenarioSettings) -> None:
        rng = seeded_rng(f"{seed}/scenario")
        limits = Limits(
            disk_reserve_bytes=64 * 1024,
            undelivered_bytes_max=rng.choice([20_000, 1_000_000]),
            inflight_bytes_max=rng.choice([5_000, 1_000_000]),
            body_bytes_max=5_000,
            wal_bytes_max=rng.choice([30_000, 32 << 20]),
        )
        self._seed = seed
        self._settings = settings
        self._rng = rng
        self._machine = SimMachine(loop, seed, MachineSettings(executors=rng.choice([1, 2, 3]), limits=limits))
        self._clock = self._machine.clock
        self._ledger = Ledger()
        self._next_number = 0
        self._pipeline = ""
        self._false_alarms: list[str] = []

    async def run(self) -> Outcome:
        machine = self._machine
        async with machine:
            await self._create_pipeline()
            nemesis = Nemesis(machine, seeded_rng(f"{self._seed}/nemesis"), self._update_pipeline)
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._settings.clients):
                    tasks.create_task(self._send_records(f"client-{number}"))
                tasks.create_task(nemesis.rage(self._settings))
                tasks.create_task(self._verify_meanwhile())
            await nemesis.heal()
            problems = await self._drain()
            # What is in a bucket must be there for good.
            machine.power_cut()
            await machine.ready()
            found = read_records(machine.bucket(BUCKET))
            problems += self._ledger.problems(found)
            problems += self._false_alarms + await self._verify(found)
            files = machine.bucket(BUCKET)
            self._add_to_trace(files)
        return Outcome(
            seed=self._seed,
            digest=machine.trace.digest(),
            acknowledged=len(self._ledger.acknowledged),
            refused=len(self._ledger.refused),
            unknown=len(self._ledger.unknown),
            files=len(files),
            faults=dict(nemesis.faults),
            problems=problems,
            story=machine.trace.lines(last=40) if problems else [],
        )

    def _add_to_trace(self, files: dict[str, bytes]) -> None:
        for key, content in files.items():
            self._machine.trace.add("bucket", key, hashlib.sha256(content).hexdigest())
        self._machine.trace.add("disk", self._machine.disk.operations)

    # -- the pipeline ---------------------------------------------------------------------------------------

    def _pipeline_settings(self) -> dict[str, Any]:
        rng = self._rng
        return {
            "name": "records",
            "source": [{"type": "http", "format": "json"}],
            "destination": {
                "type": "r2",
                "format": "json",
                "path": {"bucket": BUCKET, "prefix": rng.choice(["", "a/b"])},
                "compression": {"type": rng.choice(["none", "gzip"])},
                "batch": {
                    "max_bytes": rng.choice([500, 5_000, 100_000_000]),
                    "max_duration_s": rng.choice([0.25, 1, 3]),
                    "max_rows": rng.choice([1, 30, 10_000_000]),
                },
            },
        }

    async def _create_pipeline(self) -> None:
        answer = await self._machine.control(0, "POST", "/pipelines", self._pipeline_settings())
        assert answer.status == 200, answer
        self._pipeline = answer.json()["result"]["id"]

    async def _update_pipeline(self) -> None:
        slot = self._rng.randrange(self._machine.settings.executors)
        try:
            answer = await self._machine.control(slot, "PUT", "/pipelines/records", self._pipeline_settings())
        except ConnectionLost:
            return
        self._machine.trace.add("operator", "update", answer.status)

    # -- clients --------------------------------------------------------------------------------------------

    async def _send_records(self, name: str) -> None:
        rng = seeded_rng(f"{self._seed}/{name}")
        end_ms = self._clock.elapsed_ms() + self._settings.duration_ms
        while self._clock.elapsed_ms() < end_ms:
            await self._send(name, rng)
            await self._clock.sleep_ms(rng.randint(*self._settings.client_pause_ms))

    async def _send(self, name: str, rng: Rng) -> None:
        first, count = self._next_number, rng.randint(1, self._settings.records_per_request_max)
        self._next_number += count
        numbers = range(first, first + count)
        body = json.encode([{"n": number, "pad": "x" * rng.randrange(100)} for number in numbers])
        slot = rng.randrange(self._machine.settings.executors)
        try:
            status = (await self._machine.request(slot, "POST", f"/ingest/{self._pipeline}", body)).status
        except ConnectionLost:
            status = 0
        if status == 200:
            self._ledger.acknowledged.update(numbers)
        elif 400 <= status < 500 or status == 507:
            self._ledger.refused.update(numbers)
        else:
            self._ledger.unknown.update(numbers)
        self._machine.trace.add(name, first, count, status)

    # -- what the server says of itself ---------------------------------------------------------------------

    async def _verify_meanwhile(self) -> None:
        """Nothing is ever wrong, however much moves; at times it cannot be said."""
        rng = seeded_rng(f"{self._seed}/auditor")
        end_ms = self._clock.elapsed_ms() + self._settings.duration_ms
        cursor: str | None = None
        while self._clock.elapsed_ms() < end_ms:
            await self._clock.sleep_ms(rng.randint(*_VERIFY_PAUSE_MS))
            slot = rng.randrange(self._machine.settings.executors)
            try:
                status, result = await self._verify_step(slot, cursor, deep=rng.random() < 0.5)
            except ConnectionLost:
                continue
            self._machine.trace.add("auditor", status)
            if status == 200:
                cursor = result["cursor"]
                self._false_alarms += [f"a false alarm: {problem}" for problem in result["problems"][:3]]

    async def _verify(self, found: Counter[int]) -> list[str]:
        """The server's own verdict must be ours."""
        problems: list[str] = []
        in_files = pending = 0
        cursor: str | None = None
        while True:
            status, result = await self._verify_step(0, cursor, deep=True)
            if status != 200:
                return [f"it could not be verified: status {status}"]
            problems += [f"verify says: {problem}" for problem in result["problems"][:10]]
            for shard in result["checked"]["shards"]:
                in_files += shard["in_files"]
                pending += shard["pending"]
            cursor = result["cursor"]
            if cursor is None:
                break
        if not in_files <= found.total() <= in_files + pending:
            problems.append(f"verify says {in_files} records are in files ({pending} pending): {found.total()} are")
        return problems

    async def _verify_step(self, slot: int, cursor: str | None, *, deep: bool) -> tuple[int, Any]:
        query = f"deep={str(deep).lower()}" + (f"&cursor={cursor}" if cursor else "")
        answer = await self._machine.control(slot, "GET", f"/pipelines/records/verify?{query}")
        return answer.status, answer.json().get("result")

    # -- the end --------------------------------------------------------------------------------------------

    async def _drain(self) -> list[str]:
        """Wait until nothing awaits delivery any more."""
        deadline_ms = self._clock.elapsed_ms() + _DRAIN_MS_MAX
        while True:
            await self._clock.sleep_ms(500)
            backlog = self._backlog_bytes()
            if not backlog and not self._ledger.acknowledged - read_records(self._machine.bucket(BUCKET)).keys():
                return []
            if self._clock.elapsed_ms() > deadline_ms:
                return [f"{backlog} bytes still await delivery {_DRAIN_MS_MAX} ms after everything was healed"]

    def _backlog_bytes(self) -> int:
        executors = [self._machine.executor(slot) for slot in range(self._machine.settings.executors)]
        return sum(
            size
            for executor in executors
            if executor is not None
            for size in executor.node.statistics.undelivered_bytes.values()
        )


def read_records(files: dict[str, bytes]) -> Counter[int]:
    """How often each record number is in the files of a bucket, whatever their compression, be it as a dead
    letter."""
    found: Counter[int] = Counter()
    for key, content in files.items():
        found.update(numbers_in(key, content))
    return found


def numbers_in(key: str, content: bytes) -> list[int]:
    """The numbers of the records in one file."""
    ndjson = decompress(content, _COMPRESSIONS[key.rpartition(".")[2]])
    if is_dead(key):
        return [json.decode(letter.record)["n"] for letter in read_dead_letters(ndjson)]
    return [json.decode(line)["n"] for line in ndjson.splitlines()]


def is_dead(key: str) -> bool:
    """Whether a file is one of dead letters."""
    return DEAD_FOLDER in key.split("/")


class Nemesis:
    """Breaks what can be broken, one thing after the other."""

    def __init__(self, machine: SimMachine, rng: Rng, update: Callable[[], Awaitable[None]]) -> None:
        self.faults: Counter[str] = Counter()
        self._machine = machine
        self._rng = rng
        self._update = update
        self._kinds: list[Callable[[], Awaitable[None] | None]] = [
            self._kill,
            self._kill_all,
            self._power_cut,
            self._crash_in_operation,
            self._power_cut_in_operation,
            self._bucket_outage,
            self._bucket_flaky,
            self._disk_full,
            self._disk_slow,
            self._sync_fails,
            self._clock_jumps,
            self._network_loses,
            update,
        ]

    async def rage(self, settings: ScenarioSettings) -> None:
        end_ms = self._machine.clock.elapsed_ms() + settings.duration_ms
        while self._machine.clock.elapsed_ms() < end_ms:
            await self._pause(*settings.fault_pause_ms)
            fault = self._rng.choice(self._kinds)
            name = fault.__name__.removeprefix("_")
            self.faults[name] += 1
            self._machine.trace.add("nemesis", name)
            lasting = fault()
            if lasting is not None:
                await lasting

    async def heal(self) -> None:
        """Put everything right, and wait until every executor serves."""
        machine = self._machine
        machine.no_fault()
        machine.start_all()
        await machine.ready()
        # Past every moment that the clock has ever shown, so that nothing waits for a time that was a mistake.
        machine.clock.jump_ms(4 * _HOUR_MS)

    async def _pause(self, shortest_ms: int, longest_ms: int) -> None:
        await self._machine.clock.sleep_ms(self._rng.randint(shortest_ms, longest_ms))

    # -- deaths ---------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self._machine.kill(self._rng.randrange(self._machine.settings.executors))

    def _kill_all(self) -> None:
        self._machine.kill_all()

    def _power_cut(self) -> None:
        self._machine.power_cut()

    def _crash_in_operation(self) -> None:
        self._machine.crash_at(self._rng.randint(1, 100))

    def _power_cut_in_operation(self) -> None:
        self._machine.crash_at(self._rng.randint(1, 100), self._machine.power_cut)

    # -- what lasts a while ---------------------------------------------------------------------------------

    async def _bucket_outage(self) -> None:
        self._machine.store.outage = True
        await self._pause(50, 1_500)
        self._machine.store.outage = False

    async def _bucket_flaky(self) -> None:
        store = self._machine.store
        store.fail, store.lose_answer, store.slow = 0.3, 0.3, 0.3
        store.slow_ms = (10, 500)
        await self._pause(50, 1_500)
        store.fail = store.lose_answer = store.slow = 0.0

    async def _disk_full(self) -> None:
        disk = self._machine.disk
        disk.capacity_bytes, before = disk.used_bytes + self._rng.randint(0, 100_000), disk.capacity_bytes
        await self._pause(50, 1_000)
        disk.capacity_bytes = before

    async def _disk_slow(self) -> None:
        for slot in range(self._machine.settings.executors):
            executor = self._machine.executor(slot)
            if executor is not None:
                executor.offload.delay_ms = (10, 300)
        await self._pause(50, 500)

    async def _sync_fails(self) -> None:
        """Until an executor notices, and the server has stopped; then somebody replaces the disk's cable."""
        machine = self._machine
        machine.disk.sync_fails = True
        await self._pause(1, 300)
        machine.disk.sync_fails = False
        machine.start_all()

    async def _clock_jumps(self) -> None:
        jump_ms = self._rng.choice([-_HOUR_MS, -1_000, 1_000, _HOUR_MS])
        self._machine.clock.jump_ms(jump_ms)
        await self._pause(10, 1_000)
        self._machine.clock.jump_ms(-jump_ms)

    async def _network_loses(self) -> None:
        network = self._machine.network
        network.lose_request = network.lose_answer = 0.3
        await self._pause(10, 300)
        network.lose_request = network.lose_answer = 0.0
