"""A fault at the n-th operation, for n = 1, 2, 3 …, of pipelines with transforms, partitions and buckets elsewhere,
and while they are changed and deleted. See `test_every_step.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import json
from tests.sim.steps import Steps

from penstock import App
from penstock.apps import Application
from penstock.base.errors import NotFound
from penstock.base.limits import Limits
from penstock.objects.runtime import Runtime
from penstock.pipelines.coordinator import ShardDescription
from penstock.pipelines.ledger import LedgerPage
from penstock.pipelines.plan import shard_name
from penstock.pipelines.stream_shard import ShardStatus
from penstock.server.node import Node
from penstock.testing.sim.audit import Ledger, is_dead, numbers_in
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import FOLDER, ConnectionLost, MachineSettings, SimMachine
from penstock.testing.sim.scenario import BUCKET

Arm = Callable[[SimMachine], None]
Act = Callable[[SimMachine, str], Awaitable[bool]]

ENDPOINT = "https://s3.example"
S3 = {"endpoint": ENDPOINT, "access_key_id": "id", "secret_access_key": "secret"}

app = App()


@app.transform("check", batch_records_max=7)
def check(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if any(record["n"] % 10 == 7 for record in records):
        raise ValueError("a seven")
    return [record | {"checked": True} for record in records]


APPLICATION = Application("test", transforms=app.transforms)


def power_cut(machine: SimMachine) -> None:
    machine.power_cut()


def kill_all(machine: SimMachine) -> None:
    machine.kill_all()


def settings(
    *,
    transform: bool = False,
    partition: bool = False,
    s3: bool = False,
    compression: str = "gzip",
    shards: int = 1,
    **batch: Any,
) -> dict[str, Any]:
    destination: dict[str, Any] = {
        "path": {"bucket": BUCKET},
        "compression": {"type": compression},
        "batch": {"max_duration_s": 0.25, "max_rows": 20} | batch,
        "credentials": S3 if s3 else None,
    }
    if partition:
        destination["path"]["filepath"] = "${date}/${hr}-${minute}"
        destination["partition_time"] = {"field": "at", "format": "unix_s"}
    return {
        "name": "records",
        "metadata": {"shards": shards},
        "source": [{"type": "http", "format": "json"}],
        "transforms": [{"name": "check"}] if transform else [],
        "destination": destination,
    }


def record(n: int) -> dict[str, Any]:
    """Those with a 3 have no time, those with a 7 do not pass the transform."""
    return {"n": n} if n % 10 == 3 else {"n": n, "at": n * 15}


def buckets(machine: SimMachine) -> dict[str, bytes]:
    return {**machine.bucket(BUCKET), **machine.bucket(BUCKET, ENDPOINT)}


def left_behind(machine: SimMachine) -> list[str]:
    """Files on their way that nobody will send any more."""
    return list(machine.disk.files(f"{FOLDER}/spool"))


async def create(machine: SimMachine, body: dict[str, Any]) -> str:
    answer = await machine.control(0, "POST", "/pipelines", body)
    assert answer.status == 200, answer
    pipeline: str = answer.json()["result"]["id"]
    return pipeline


async def in_node(machine: SimMachine, work: Callable[[Runtime], Awaitable[Any]]) -> Any:
    async def inside(node: Node) -> Any:
        return await work(node.runtime)

    return await machine.run(0, inside)


async def shards_of(machine: SimMachine, pipeline: str) -> list[ShardDescription]:
    shards: list[ShardDescription] = await in_node(
        machine, lambda runtime: runtime.namespace("Coordinator").get_by_name(pipeline).shards(True)
    )
    return shards


async def ledger_problems(machine: SimMachine, pipeline: str) -> list[str]:
    """What the shards say of where each record is must be what is in the buckets."""
    files, problems, told = buckets(machine), [], set()
    for shard in await shards_of(machine, pipeline):
        page: LedgerPage = await in_node(
            machine,
            lambda runtime, name=shard.name: runtime.namespace("StreamShard").get_by_name(name).ledger("", 1000),
        )
        assert shard.status is not None
        records = sum(segment.records for segment in page.segments)
        if records != shard.status.accepted_records or shard.status.backlog_records:
            problems.append(f"{shard.name} accepted {shard.status.accepted_records}, its segments have {records}")
        totals = shard.status.totals
        if totals.delivered_records + totals.dead_records != records:
            problems.append(f"{shard.name} has {records} records, and delivered {totals}")
        for file in page.files:
            told.add(file.key)
            content = files.get(file.key, b"")
            if (len(content), hashlib.sha256(content).hexdigest()) != (file.size_bytes, file.sha256):
                problems.append(f"{file.key} is not what the ledger says")
            elif len(numbers_in(file.key, content)) != file.records:
                problems.append(f"{file.key} has not the records that the ledger says")
    problems += [f"{key} is in no ledger" for key in sorted(files.keys() - told)]
    return problems


class Story:
    """Sends requests to a pipeline, does something to it meanwhile, and reads everything at the end. `act` gives
    whether it was done; it is done again until it is."""

    def __init__(
        self,
        arm: Arm,
        body: dict[str, Any],
        *,
        arm_again: Arm | None = None,
        act: Act | None = None,
        executors: int = 1,
        goes_on: bool = True,
    ) -> None:
        self._arm = arm
        self._arm_again = arm_again
        self._body = body
        self._act = act
        self._executors = executors
        #: Whether the pipeline takes records at the end.
        self._goes_on = goes_on
        self.fired = False
        self.problems: list[str] = []
        self.story: list[str] = []
        self.ledger = Ledger()
        self.found: dict[str, list[int]] = {}

    def run(self) -> None:
        run_virtual(self._run)

    async def _run(self, loop: VirtualLoop) -> None:
        machine = SimMachine(
            loop,
            "every step",
            MachineSettings(
                executors=self._executors, limits=Limits(disk_reserve_bytes=0), application=APPLICATION
            ),
        )
        async with machine:
            pipeline = await create(machine, self._body)
            self._arm(machine)
            acted = self._act is None
            for request in range(3):
                await self._send(machine, pipeline, request)
                if request == 1 and self._act is not None:
                    acted = await self._attempt(machine, pipeline)
                await machine.clock.sleep_ms(60)
            await machine.clock.sleep_ms(1_000)
            self.fired = not machine.fault_pending
            if self._arm_again is not None:
                machine.start_all()
                self._arm_again(machine)
                await machine.clock.sleep_ms(1_000)
            machine.no_fault()
            machine.start_all()
            await machine.ready()
            while not acted:
                acted = await self._attempt(machine, pipeline)
                await machine.clock.sleep_ms(100)
            await self._send(machine, pipeline, 3)
            await machine.clock.sleep_ms(20_000)
            await self._audit(machine, pipeline)
            self.story = machine.trace.lines()

    async def _attempt(self, machine: SimMachine, pipeline: str) -> bool:
        assert self._act is not None
        try:
            return await self._act(machine, pipeline)
        except ConnectionLost:
            return False

    async def _send(self, machine: SimMachine, pipeline: str, request: int) -> None:
        numbers = range(request * 10 + 10, request * 10 + 20)
        body = json.encode([record(n) for n in numbers])
        try:
            answer = await machine.request(request % self._executors, "POST", f"/ingest/{pipeline}", body)
        except ConnectionLost:
            self.ledger.unknown.update(numbers)
            return
        if answer.status == 200:
            self.ledger.acknowledged.update(numbers)
        elif answer.status < 500:
            self.ledger.refused.update(numbers)
        else:
            self.ledger.unknown.update(numbers)

    async def _audit(self, machine: SimMachine, pipeline: str) -> None:
        self.problems += [f"left behind: {path}" for path in left_behind(machine)]
        if self._goes_on:
            self.problems += await ledger_problems(machine, pipeline)
            if 40 not in self.ledger.acknowledged:
                self.problems.append("the server did not serve again")
        else:
            machine.kill_all()  # what is only in memory says nothing
            await machine.ready()
            self.problems += await self._remains(machine, pipeline)
        machine.power_cut()
        await machine.ready()
        self.found = {key: numbers_in(key, content) for key, content in buckets(machine).items()}
        numbers = [n for found in self.found.values() for n in found]
        self.problems += self._problems_of_records(numbers)

    def _problems_of_records(self, numbers: list[int]) -> list[str]:
        return self.ledger.problems(Counter(numbers))

    async def _remains(self, machine: SimMachine, pipeline: str) -> list[str]:
        """What is left of a pipeline that was deleted."""
        problems = []
        for index in range(2):
            name = shard_name(pipeline, 1, index, self._executors)
            status: ShardStatus = await in_node(
                machine, lambda runtime, name=name: runtime.namespace("StreamShard").get_by_name(name).status()
            )
            if status.accepted_records or status.backlog_bytes or status.totals.files:
                problems.append(f"{name} still has {status}")
        with contextlib.suppress(NotFound):
            await shards_of(machine, pipeline)
            problems.append("the coordinator still knows it")
        answer = await machine.control(0, "POST", "/pipelines", self._body)
        if answer.status != 200 or answer.json()["result"]["id"] == pipeline:
            problems.append(f"the name cannot be used again: {answer}")
        return problems


def check_story(story: Story, what: str) -> None:
    __tracebackhide__ = True
    if story.problems:
        pytest.fail("\n".join([what, *story.problems, *story.story]))


KINDS: dict[str, dict[str, Any]] = {
    "transform": {"transform": True, "compression": "zstd"},
    "partition": {"partition": True, "compression": "deflate"},
    "s3": {"s3": True, "compression": "none"},
    "all of it": {"transform": True, "partition": True, "s3": True},
}


def dead_numbers(kind: dict[str, Any]) -> set[int]:
    """Which of the numbers 0 to 9 are dead letters."""
    return {*({7} if kind.get("transform") else ()), *({3} if kind.get("partition") else ())}


def check_kinds_of_files(story: Story, kind: dict[str, Any]) -> None:
    dead = {n % 10 for key, numbers in story.found.items() if is_dead(key) for n in numbers}
    data = {n % 10 for key, numbers in story.found.items() if not is_dead(key) for n in numbers}
    assert dead == dead_numbers(kind) and data == set(range(10)) - dead


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_A2_a_crash_at_every_step_of_transforming_partitioning_and_delivering(
    kind: dict[str, Any], steps: Steps
) -> None:
    body = settings(**kind)
    for story in steps.of(lambda n: Story(lambda machine: machine.crash_at(n, machine.power_cut), body)):
        check_kinds_of_files(story, kind)
    assert steps.last > 50, "fewer steps than there must be: does it deliver files at all?"


def test_A2_executors_die_at_every_step_of_transforming_partitioning_and_delivering(steps: Steps) -> None:
    body = settings(transform=True, partition=True)
    assert steps.through(lambda n: Story(lambda machine: machine.crash_at(n, machine.kill_all), body)) > 50


@pytest.mark.parametrize("later", [1, 5, 20])
@pytest.mark.parametrize("kind", ["transform", "all of it"])
def test_A4_a_second_crash_during_the_recovery_of_prepared_files(kind: str, later: int) -> None:
    def again(machine: SimMachine) -> None:
        machine.crash_at(later, machine.power_cut)

    body = settings(**KINDS[kind])
    for n in range(1, 120, 7):
        story = Story(lambda machine, n=n: machine.crash_at(n, machine.power_cut), body, arm_again=again)
        story.run()
        check_story(story, f"steps {n} and {later}")


# -- changes ------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "to a bucket elsewhere": ({}, {"s3": True}),
    "from there to a folder": ({"s3": True}, {"compression": "zstd"}),
    "a transform comes": ({}, {"transform": True}),
    "a transform goes": ({"transform": True, "partition": True}, {"partition": True}),
    "more shards": ({"shards": 1}, {"shards": 2, "max_rows": 5}),
}


def updates_to(body: dict[str, Any]) -> Act:
    async def act(machine: SimMachine, _pipeline: str) -> bool:
        return (await machine.control(0, "PUT", "/pipelines/records", body)).status == 200

    return act


async def generations(machine: SimMachine) -> list[str]:
    answer = await machine.control(0, "GET", "/pipelines/records/deployments")
    assert answer.status == 200, answer
    return [generation["state"] for generation in answer.json()["result"]]


class StoryOfAChange(Story):
    async def _audit(self, machine: SimMachine, pipeline: str) -> None:
        states = await generations(machine)
        if states[0] != "active" or set(states[1:]) != {"drained"}:
            self.problems.append(f"the generations are {states}")
        await super()._audit(machine, pipeline)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_E4_a_crash_at_every_step_of_a_change_under_load(
    change: tuple[dict[str, Any], dict[str, Any]], steps: Steps
) -> None:
    before, after = (settings(**kind) for kind in change)

    def run(n: int) -> Story:
        return StoryOfAChange(lambda machine: machine.crash_at(n, machine.power_cut), before, act=updates_to(after))

    assert steps.through(run) > 50


def test_E4_one_of_two_executors_dies_at_every_step_of_a_change_under_load(steps: Steps) -> None:
    def run(n: int) -> Story:
        return StoryOfAChange(
            lambda machine: machine.crash_at(n),
            settings(shards=2),
            act=updates_to(settings(shards=3, transform=True)),
            executors=2,
        )

    assert steps.through(run) > 50


# -- deletion -----------------------------------------------------------------------------------------------


def deletes(query: str = "") -> Act:
    async def act(machine: SimMachine, _pipeline: str) -> bool:
        return (await machine.control(0, "DELETE", f"/pipelines/records{query}")).status in (200, 404)

    return act


class StoryOfADiscard(Story):
    def _problems_of_records(self, numbers: list[int]) -> list[str]:
        """What was in no file yet is gone; but no record is there twice, and none that was refused."""
        problems = super()._problems_of_records(numbers)
        return [problem for problem in problems if "acknowledged, but in no file" not in problem]


@pytest.mark.parametrize("kind", ["transform", "s3"])
def test_A2_a_crash_at_every_step_of_a_deletion_that_drains(kind: str, steps: Steps) -> None:
    body = settings(**KINDS[kind], shards=2)

    def run(n: int) -> Story:
        return Story(
            lambda machine: machine.crash_at(n, machine.power_cut), body, act=deletes(), goes_on=False, executors=1
        )

    assert steps.through(run) > 50


@pytest.mark.parametrize("kind", ["transform", "s3"])
def test_A2_a_crash_at_every_step_of_a_deletion_that_discards(kind: str, steps: Steps) -> None:
    body = settings(**KINDS[kind], shards=2, max_duration_s=0.5)

    def run(n: int) -> Story:
        return StoryOfADiscard(
            lambda machine: machine.crash_at(n, machine.power_cut),
            body,
            act=deletes("?discard=true"),
            goes_on=False,
        )

    assert steps.through(run) > 40
