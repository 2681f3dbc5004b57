"""Records through faults: does each acknowledged record end up in exactly one file?

Clients send numbered records to a pipeline while a nemesis kills executors, cuts the power, fills the disk, breaks
the bucket and sets the clock wrong, and an operator changes the pipeline, or deletes it and makes another: files go
to a folder or to a bucket elsewhere, as the records came or through a transform, by their arrival or by a time of
their own, in each compression. Then everything is healed, and all files are read, dead letters among them:

    acknowledged (200)          in exactly one file, once
    refused (4xx, 507)          in none
    unknown (5xx, no answer)    once or not at all

No file is left on its way.

All that happens is drawn from one seed, and `Outcome.digest` says whether two runs were the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import json

from penstock.apps import Application
from penstock.apps.transform import Transform
from penstock.base.limits import Limits
from penstock.base.rng import Rng, seeded_rng
from penstock.testing.sim.audit import Ledger, read_records
from penstock.testing.sim.client import Answer
from penstock.testing.sim.faulty_store import StoreFaults
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import FOLDER, ConnectionLost, MachineSettings, SimMachine

BUCKET = "records"
ENDPOINTS = ("https://one.example", "https://other.example")
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
        machine_settings = MachineSettings(executors=rng.choice([1, 2, 3]), limits=limits, application=_APPLICATION)
        self._machine = SimMachine(loop, seed, machine_settings)
        self._clock = self._machine.clock
        self._ledger = Ledger()
        self._next_number = 0
        self._pipeline = ""
        self._false_alarms: list[str] = []
        #: Whether a pipeline before this one has files among those that are found: the server's verdict on this one
        #: is not about them.
        self._replaced = False

    async def run(self) -> Outcome:
        machine = self._machine
        async with machine:
            await self._create_pipeline()
            operations = [self._update_pipeline]
            if self._rng.random() < 0.3:
                operations.append(self._replace_pipeline)
            nemesis = Nemesis(machine, seeded_rng(f"{self._seed}/nemesis"), operations)
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._settings.clients):
                    tasks.create_task(self._send_records(f"client-{number}"))
                tasks.create_task(nemesis.rage(self._settings))
                tasks.create_task(self._verify_meanwhile())
            await nemesis.heal()
            problems = await self._drain()
            problems += [f"left on its way: {path}" for path in machine.disk.files(f"{FOLDER}/spool")]
            # What is in a bucket must be there for good.
            machine.power_cut()
            await machine.ready()
            files = self._files()
            found = read_records(files)
            problems += self._ledger.problems(found)
            problems += self._false_alarms + await self._verify(found)
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
        elsewhere = {"endpoint": rng.choice(ENDPOINTS), "access_key_id": "id", "secret_access_key": "secret"}
        path = {"bucket": BUCKET, "prefix": rng.choice(["", "a/b"])}
        if rng.random() < 0.3:
            path["filepath"] = rng.choice(["", "${date}/${hr}-${minute}", "y=${year}"])
        return {
            "name": "records",
            "source": [{"type": "http", "format": "json"}],
            "metadata": {"shards": rng.choice([None, 1, 3])},
            "transforms": rng.choice([[], [], [{"name": "some_fail"}], [{"name": "same"}, {"name": "some_fail"}]]),
            "destination": {
                "type": "r2",
                "format": "json",
                "path": path,
                "compression": {"type": rng.choice(["none", "gzip", "deflate", "zstd"])},
                "batch": {
                    "max_bytes": rng.choice([500, 5_000, 100_000_000]),
                    "max_duration_s": rng.choice([0.25, 1, 3]),
                    "max_rows": rng.choice([1, 30, 10_000_000]),
                },
                "credentials": rng.choice([None, elsewhere]),
                "partition_time": rng.choice([None, None, {"field": "at", "format": "unix_s"}]),
            },
        }

    async def _create_pipeline(self) -> None:
        answer = await self._machine.control(0, "POST", "/pipelines", self._pipeline_settings())
        assert answer.status == 200, answer
        self._pipeline = answer.json()["result"]["id"]

    async def _update_pipeline(self) -> None:
        await self._operate("PUT", "/pipelines/records", self._pipeline_settings())

    async def _replace_pipeline(self) -> None:
        """Delete the pipeline, and make another of its name; either may fail."""
        self._replaced = True
        await self._operate("DELETE", "/pipelines/records")
        answer = await self._operate("POST", "/pipelines", self._pipeline_settings())
        if answer is not None and answer.status == 200:
            self._pipeline = answer.json()["result"]["id"]

    async def _operate(self, method: str, path: str, body: Any = None) -> Answer | None:
        slot = self._rng.randrange(self._machine.settings.executors)
        try:
            answer = await self._machine.control(slot, method, path, body)
        except ConnectionLost:
            return None
        self._machine.trace.add("operator", method, answer.status)
        return answer

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
        body = json.encode([_record(number, rng) for number in numbers])
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
                wrong = self._wrong(result["problems"])
                self._false_alarms += [f"a false alarm: {problem}" for problem in wrong[:3]]

    def _wrong(self, problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Files of a deleted pipeline, whose ledger is gone with it, are nobody's: extra, and rightly so."""
        return [problem for problem in problems if not (self._replaced and problem["kind"] == "extra")]

    async def _verify(self, found: Counter[int]) -> list[str]:
        """The server's own verdict must be ours."""
        problems: list[str] = []
        in_files = pending = 0
        cursor: str | None = None
        while True:
            status, result = await self._verify_step(0, cursor, deep=True)
            if status != 200:
                return [f"it could not be verified: status {status}"]
            problems += [f"verify says: {problem}" for problem in self._wrong(result["problems"])[:10]]
            for shard in result["checked"]["shards"]:
                in_files += shard["in_files"]
                pending += shard["pending"]
            cursor = result["cursor"]
            if cursor is None:
                break
        if not self._replaced and not in_files <= found.total() <= in_files + pending:
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
            if not backlog and not self._ledger.acknowledged - read_records(self._files()).keys():
                return []
            if self._clock.elapsed_ms() > deadline_ms:
                return [f"{backlog} bytes still await delivery {_DRAIN_MS_MAX} ms after everything was healed"]

    def _files(self) -> dict[str, bytes]:
        """All files by key, wherever they are: keys have ULIDs in them."""
        files = self._machine.bucket(BUCKET)
        for endpoint in ENDPOINTS:
            files |= self._machine.bucket(BUCKET, endpoint)
        return files

    def _backlog_bytes(self) -> int:
        executors = [self._machine.executor(slot) for slot in range(self._machine.settings.executors)]
        return sum(sum(e.node.statistics.undelivered_bytes.values()) for e in executors if e is not None)


def _record(number: int, rng: Rng) -> dict[str, Any]:
    """One in ten has no time that it could be partitioned by."""
    record: dict[str, Any] = {"n": number, "pad": "x" * rng.randrange(100)}
    if rng.random() < 0.9:
        record["at"] = rng.randrange(300) * 60
    return record


def _same(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records


def _some_fail(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nothing is dropped, so that every record can be found again: one in eleven becomes a dead letter."""
    if any(record["n"] % 11 == 0 for record in records):
        raise ValueError("one in eleven")
    return records


_APPLICATION = Application(
    "scenario",
    transforms={
        name: Transform(name=name, function=function, deadline_ms=10_000, batch_records_max=25)
        for name, function in (("same", _same), ("some_fail", _some_fail))
    },
)


class Nemesis:
    """Breaks what can be broken, one thing after the other."""

    def __init__(
        self, machine: SimMachine, rng: Rng, operations: Sequence[Callable[[], Awaitable[None]]] = ()
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._machine = machine
        self._rng = rng
        self._kinds: list[Callable[[], Awaitable[None] | None]] = [
            self._kill,
            self._kill_all,
            self._power_cut,
            self._crash_in_operation,
            self._power_cut_in_operation,
            self._bucket_outage,
            self._bucket_forbidden,
            self._bucket_flaky,
            self._disk_full,
            self._disk_slow,
            self._sync_fails,
            self._clock_jumps,
            self._network_loses,
            self._transforms_fail,
            *operations,
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

    def _a_store(self) -> StoreFaults:
        machine = self._machine
        return self._rng.choice([machine.store, *map(machine.s3.faults, ENDPOINTS)])

    async def _bucket_outage(self) -> None:
        store = self._a_store()
        store.outage = True
        await self._pause(50, 1_500)
        store.outage = False

    async def _bucket_forbidden(self) -> None:
        store = self._a_store()
        store.forbidden = True
        await self._pause(50, 1_500)
        store.forbidden = False

    async def _bucket_flaky(self) -> None:
        store = self._a_store()
        store.fail, store.lose_answer, store.slow, store.reset = 0.3, 0.3, 0.3, 0.2
        store.slow_ms = (10, 500)
        await self._pause(50, 1_500)
        store.fail = store.lose_answer = store.slow = store.reset = 0.0

    async def _transforms_fail(self) -> None:
        faults = self._machine.transforms
        faults.unavailable, faults.fail, faults.crash = 0.5, 0.1, 0.1
        await self._pause(50, 1_500)
        faults.unavailable = faults.fail = faults.crash = 0.0

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
