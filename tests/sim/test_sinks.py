"""What pipelines do when a bucket, or its key, is not as it should be: over time, on virtual time.

Names of tests start with the row of the list of faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest
from msgspec import json

from penstock import App
from penstock.apps import Application
from penstock.base.limits import RETRY_AFTER_S_MAX, SINK_RETRY_MAX_MS, Limits
from penstock.server.node import Node
from penstock.testing.sim.client import Answer
from penstock.testing.sim.faulty_store import StoreFaults
from penstock.testing.sim.loop import STEPS_MAX_DEFAULT, VirtualLoop, run_virtual
from penstock.testing.sim.machine import FOLDER, MachineSettings, SimMachine
from penstock.testing.sim.scenario import read_records

BUCKET = "bucket"
ENDPOINT = "https://s3.example"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

app = App()


@app.transform("same")
def same(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records


@app.transform("slow")
async def slow(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    await asyncio.sleep(3)
    return records


APPLICATION = Application("test", transforms=app.transforms)


def simulate(
    story: Callable[[SimMachine], Awaitable[None]],
    *,
    executors: int = 1,
    limits: Limits | None = None,
    turns_max: int = STEPS_MAX_DEFAULT,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        settings = MachineSettings(
            executors=executors, limits=limits or Limits(disk_reserve_bytes=0), application=APPLICATION
        )
        async with SimMachine(loop, "sinks", settings) as machine:
            await story(machine)

    run_virtual(main, steps_max=turns_max)


def settings(
    name: str = "p", endpoint: str | None = ENDPOINT, key: str = "secret", **changes: Any
) -> dict[str, Any]:
    credentials = {"endpoint": endpoint, "access_key_id": "id", "secret_access_key": key} if endpoint else None
    return {
        "name": name,
        "metadata": {"shards": changes.pop("shards", 1)},
        "source": [{"type": "http", "format": "json"}],
        "transforms": changes.pop("transforms", []),
        "destination": {
            "path": {"bucket": BUCKET},
            "batch": {"max_duration_s": 1} | changes,
            "credentials": credentials,
        },
    }


async def create(machine: SimMachine, body: dict[str, Any]) -> str:
    answer = await machine.control(0, "POST", "/pipelines", body)
    assert answer.status == 200, answer
    id_: str = answer.json()["result"]["id"]
    return id_


async def send(machine: SimMachine, pipeline: str, *numbers: int, pad: int = 0, slot: int = 0) -> Answer:
    body = json.encode([{"n": n, "pad": "x" * pad} for n in numbers])
    return await machine.request(slot, "POST", f"/ingest/{pipeline}", body)


async def shown(machine: SimMachine, name: str = "p") -> dict[str, Any]:
    answer = await machine.control(0, "GET", f"/pipelines/{name}")
    assert answer.status == 200, answer
    result: dict[str, Any] = answer.json()["result"]
    return result


def landed(machine: SimMachine) -> Counter[int]:
    return read_records(machine.bucket(BUCKET, ENDPOINT))


def statuses(*values: int) -> list[tuple[str, dict[str, Any]]]:
    return [(str(value), {"status": value}) for value in values]


TRANSIENT = [
    *statuses(400, 408, 409, 412, 429, 500, 502, 503, 504, 507),
    ("outage", {"outage": True}),
    ("hang", {"hangs": True}),
    ("reset in the body", {"reset": 1.0}),
    ("success, its answer lost", {"lose_answer": 1.0}),
    ("slow and failing", {"slow": 1.0, "fail": 0.9}),
]


def set_faults(faults: StoreFaults, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(faults, name, value)


@pytest.mark.parametrize("transforms", [[], [{"name": "same"}]], ids=["direct", "prepared"])
@pytest.mark.parametrize(("name", "values"), TRANSIENT, ids=[name for name, _ in TRANSIENT])
def test_E1_what_fails_is_tried_again_until_it_succeeds_and_lands_once(
    name: str, values: dict[str, Any], transforms: list[dict[str, str]]
) -> None:
    async def story(machine: SimMachine) -> None:
        faults = machine.s3.faults(ENDPOINT)
        pipeline = await create(machine, settings(transforms=transforms))
        set_faults(faults, values)
        for n in range(5):
            assert (await send(machine, pipeline, n)).status == 200
            await machine.clock.sleep_ms(2 * MINUTE_MS)
        condition = await shown(machine)
        assert condition["status"] == "running"
        assert "failure_reason" not in condition
        if name != "slow and failing":
            assert condition["backlog"]["records"] == 5
            assert all(shard["failures"] > 3 and shard["last_error"] for shard in condition["shards"])
        tries = faults.failures
        assert tries > 5
        # The waits grow to their bound, and are not without end.
        await machine.clock.sleep_ms(30 * MINUTE_MS)
        assert faults.failures - tries <= 30 * MINUTE_MS / (SINK_RETRY_MAX_MS / 2) + 1
        set_faults(faults, {name: getattr(StoreFaults(), name) for name in values})
        await machine.clock.sleep_ms(SINK_RETRY_MAX_MS + 80_000)
        assert landed(machine) == dict.fromkeys(range(5), 1)
        condition = await shown(machine)
        assert condition["backlog"]["records"] == 0
        assert all(not shard["failures"] and shard["last_error"] is None for shard in condition["shards"])
        assert not machine.disk.files(f"{FOLDER}/spool")

    simulate(story)


@pytest.mark.parametrize(
    "values", [{"status": 403}, {"status": 401}, {"status": 404}, {"bucketless": True}], ids=str
)
def test_E1_what_no_waiting_heals_pauses_says_so_keeps_the_data_and_goes_on_by_itself(
    values: dict[str, Any],
) -> None:
    async def story(machine: SimMachine) -> None:
        faults = machine.s3.faults(ENDPOINT)
        pipeline = await create(machine, settings())
        set_faults(faults, values)
        began_ms = machine.clock.now_ms()
        for n in range(5):
            assert (await send(machine, pipeline, n)).status == 200
            await machine.clock.sleep_ms(10 * MINUTE_MS)
        condition = await shown(machine)
        assert condition["status"] == "paused" and condition["failure_reason"]
        assert condition["backlog"]["records"] == 5

        since_ms = datetime.fromisoformat(condition["paused_since"]).timestamp() * 1000
        assert began_ms <= since_ms < began_ms + 5_000
        set_faults(faults, {name: getattr(StoreFaults(), name) for name in values})
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        assert landed(machine) == dict.fromkeys(range(5), 1)
        condition = await shown(machine)
        assert condition["status"] == "running" and "paused_since" not in condition

    simulate(story)


def test_E1_a_crash_does_not_end_a_pause_nor_what_it_keeps() -> None:
    async def story(machine: SimMachine) -> None:
        machine.s3.faults(ENDPOINT)
        pipeline = await create(machine, settings())
        machine.s3.faults(ENDPOINT).forbidden = True
        assert (await send(machine, pipeline, 1)).status == 200
        await machine.clock.sleep_ms(5_000)
        machine.power_cut()
        await machine.ready()
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        assert (await shown(machine))["status"] == "paused"
        machine.s3.faults(ENDPOINT).forbidden = False
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        assert landed(machine) == {1: 1}

    simulate(story)


def test_E1_a_new_key_to_the_same_bucket_sets_a_paused_pipeline_going_at_once() -> None:
    """What waits belongs to the generation before, whose own key would never open the bucket again."""

    async def story(machine: SimMachine) -> None:
        faults = machine.s3.faults(ENDPOINT)
        pipeline = await create(machine, settings(key="old", shards=2))
        faults.forbidden = True
        for n in range(20):
            assert (await send(machine, pipeline, n)).status == 200
        await machine.clock.sleep_ms(10 * MINUTE_MS)
        assert (await shown(machine))["status"] == "paused"
        faults.forbidden = False
        answer = await machine.control(0, "PUT", "/pipelines/p", settings(key="new", shards=2))
        assert answer.status == 200, answer
        await machine.clock.sleep_ms(3_000)
        assert landed(machine) == dict.fromkeys(range(20), 1)
        assert (await send(machine, pipeline, 20)).status == 200
        await machine.clock.sleep_ms(3_000)
        assert landed(machine) == dict.fromkeys(range(21), 1)
        deployments = (await machine.control(0, "GET", "/pipelines/p/deployments")).json()["result"]
        assert [generation["state"] for generation in deployments] == ["active", "drained"]

    simulate(story)


def test_E4_while_shards_are_told_of_a_new_key_records_are_taken_or_sent_again() -> None:
    """One executor is away, so that the news reaches its shard late; who asks for the plan meanwhile asks for the
    first time."""

    async def story(machine: SimMachine) -> None:
        machine.s3.faults(ENDPOINT)
        acked: set[int] = set()
        n = 0
        for away in (0, 1):
            here = 1 - away
            for number in range(6):
                name = f"p{away}{number}"
                pipeline = await create(machine, settings(name, key="old", shards=2))
                await machine.clock.sleep_ms(2_000)
                machine.kill(away)
                async with asyncio.TaskGroup() as tasks:
                    body = settings(name, key="new", shards=2)
                    tasks.create_task(machine.control(here, "PUT", f"/pipelines/{name}", body))
                    await machine.clock.sleep_ms(10 * number)  # or the plan would be known from before
                    for _ in range(5):
                        n += 1
                        answer = await send(machine, pipeline, n, slot=here)
                        assert answer.status in (200, 503), answer
                        if answer.status == 200:
                            acked.add(n)
                        await machine.clock.sleep_ms(5)
                await machine.ready()
        await machine.clock.sleep_ms(10 * MINUTE_MS)
        assert acked and acked <= landed(machine).keys()
        assert set(landed(machine).values()) == {1}

    simulate(story, executors=2)


def test_E1_a_slow_bucket_holds_up_no_other_pipeline() -> None:
    async def story(machine: SimMachine) -> None:
        slow = await create(machine, settings("slow"))
        fast = await create(machine, settings("fast", endpoint="https://other.example"))
        machine.s3.faults(ENDPOINT).hangs = True
        for n in range(10):
            assert (await send(machine, slow, n)).status == 200
            assert (await send(machine, fast, 100 + n)).status == 200
            await machine.clock.sleep_ms(3_000)
            assert read_records(machine.bucket(BUCKET, "https://other.example"))[100 + n] == 1

    simulate(story)


# -- a whole day --------------------------------------------------------------------------------------------

#: One request of about 6 kB a minute fills the budget of 2 MB in some six hours.
BUDGET_BYTES = 2_000_000
PERIOD_MS = 60_000
REQUEST_BYTES = 6_000
#: The executor looks at its disk twice a second, all day.
TURNS_MAX = 5_000_000


def memory_of(node: Node) -> int:
    """How many things an executor keeps of what waits, in all structures that could grow with it."""
    statistics = node.statistics
    return sum(
        map(
            len,
            (statistics.undelivered_bytes, statistics.pipeline_bytes, statistics.paused, statistics._pipeline_of),
        )
    )


def test_E3_a_bucket_is_down_for_a_day_at_full_input() -> None:
    async def story(machine: SimMachine) -> None:
        faults = machine.s3.faults(ENDPOINT)
        pipeline = await create(machine, settings(max_duration_s=120))
        executor = machine.executor(0)
        assert executor is not None
        faults.outage = True
        acknowledged: set[int] = set()
        waits: list[int] = []
        sizes: set[int] = set()
        n = 0
        for minute in range(24 * 60):
            answer = await send(machine, pipeline, n, pad=REQUEST_BYTES)
            if answer.status == 200:
                acknowledged.add(n)
            else:
                assert answer.status == 429, answer
                waits.append(int(answer.headers["retry-after"]))
            n += 1
            if minute > 10 and minute % 30 == 0:
                sizes.add(memory_of(executor.node))
                assert (await shown(machine))["backlog"]["bytes"] <= BUDGET_BYTES
            await machine.clock.sleep_ms(PERIOD_MS)
        assert not landed(machine)
        # Refused from when the budget was full, and told to come again when the bucket is tried again.
        assert 0.2 < len(acknowledged) / n < 0.35
        assert waits and all(1 <= wait <= RETRY_AFTER_S_MAX for wait in waits)
        assert max(waits) <= 2 * SINK_RETRY_MAX_MS / 1000
        assert len(sizes) == 1, "memory grows with what waits"
        # What waits, each shard's log, and the log of the index of alarms, which every try moves.
        on_disk = {path: len(content) for path, content in machine.disk.files(FOLDER).items()}
        assert sum(on_disk.values()) < 2 * BUDGET_BYTES, on_disk

        faults.outage = False
        began_ms = machine.clock.elapsed_ms()
        while (await shown(machine))["backlog"]["bytes"] > 50_000:
            # The input goes on as before.
            answer = await send(machine, pipeline, n, pad=REQUEST_BYTES)
            if answer.status == 200:
                acknowledged.add(n)
            n += 1
            await machine.clock.sleep_ms(PERIOD_MS)
        elapsed_ms = machine.clock.elapsed_ms() - began_ms - SINK_RETRY_MAX_MS
        assert BUDGET_BYTES / max(1, elapsed_ms) >= 2 * REQUEST_BYTES / PERIOD_MS
        await machine.clock.sleep_ms(5 * MINUTE_MS)
        assert landed(machine) == dict.fromkeys(acknowledged, 1)
        assert (await send(machine, pipeline, n)).status == 200

    limits = Limits(disk_reserve_bytes=0, undelivered_bytes_max=BUDGET_BYTES, wal_bytes_max=500_000)
    simulate(story, limits=limits, turns_max=TURNS_MAX)


def test_E3_a_client_that_comes_when_it_was_told_to_is_taken() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings())
        machine.s3.faults(ENDPOINT).outage = True
        n = 0
        while (answer := await send(machine, pipeline, n, pad=10_000)).status == 200:
            n += 1
            await machine.clock.sleep_ms(1_000)
        machine.s3.faults(ENDPOINT).outage = False
        # It may be told once more that nothing was freed yet, but not for ever.
        for _ in range(3):
            await machine.clock.sleep_ms(1_000 * int(answer.headers["retry-after"]))
            answer = await send(machine, pipeline, n, pad=10_000)
            if answer.status == 200:
                break
        assert answer.status == 200

    simulate(story, limits=Limits(disk_reserve_bytes=0, undelivered_bytes_max=100_000))


# -- fairness -----------------------------------------------------------------------------------------------


def test_F3_a_hot_pipeline_whose_bucket_is_down_never_keeps_a_quiet_one_from_storing() -> None:
    async def story(machine: SimMachine) -> None:
        hot = await create(machine, settings("hot"))
        quiet = await create(machine, settings("quiet", endpoint="https://other.example"))
        machine.s3.faults(ENDPOINT).outage = True
        refused = 0
        for n in range(600):
            refused += (await send(machine, hot, n, pad=1_000)).status == 429
            if n % 10 == 0:
                assert (await send(machine, quiet, n, pad=1_000)).status == 200
            await machine.clock.sleep_ms(200)
        assert refused > 300, "the budget was never full"
        await machine.clock.sleep_ms(5_000)
        there = read_records(machine.bucket(BUCKET, "https://other.example"))
        assert there == dict.fromkeys(range(0, 600, 10), 1)

    limits = Limits(
        disk_reserve_bytes=0,
        undelivered_bytes_max=1_000_000,
        pipeline_undelivered_bytes_max=1_000_000,
        executor_undelivered_bytes_max=200_000,
    )
    simulate(story, limits=limits)


def test_F3_pipelines_whose_buckets_are_down_all_get_a_share() -> None:
    async def story(machine: SimMachine) -> None:
        pipelines = [await create(machine, settings(f"p{number}")) for number in range(4)]
        machine.s3.faults(ENDPOINT).outage = True
        taken = Counter[int]()
        for n in range(300):
            for number, pipeline in enumerate(pipelines):
                # The first is there before the others, and wants ten times as much.
                if number == 0 or n > 150:
                    for _ in range(10 if number == 0 else 1):
                        taken[number] += (await send(machine, pipeline, n, pad=1_000)).status == 200
            await machine.clock.sleep_ms(100)
        assert taken[0] >= 190, "alone it may have all"
        assert all(taken[number] >= 49 for number in (1, 2, 3)), taken

    limits = Limits(disk_reserve_bytes=0, executor_undelivered_bytes_max=200_000)
    simulate(story, limits=limits)


# -- the disk -----------------------------------------------------------------------------------------------


def test_B2_the_disk_is_full_while_files_are_prepared_and_everything_goes_on_when_there_is_room() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(transforms=[{"name": "same"}], max_duration_s=5))
        acknowledged = []
        for n in range(30):
            assert (await send(machine, pipeline, n, pad=1_000)).status == 200
            acknowledged.append(n)
        machine.disk.capacity_bytes = machine.disk.used_bytes + 10_000
        await machine.clock.sleep_ms(3 * MINUTE_MS)
        assert not landed(machine)
        machine.disk.capacity_bytes = 1 << 40
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        assert (await send(machine, pipeline, 100)).status == 200
        await machine.clock.sleep_ms(MINUTE_MS)
        assert landed(machine) == dict.fromkeys([*acknowledged, 100], 1)
        assert not machine.disk.files(f"{FOLDER}/spool")

    simulate(story)


@pytest.mark.parametrize("room", [0, 100, 1_000, 3_000, 5_000, 9_000, 20_000, 40_000])
def test_B2_whatever_room_is_left_nothing_is_lost_and_nothing_is_left_over(room: int) -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(transforms=[{"name": "same"}], max_duration_s=1))
        acknowledged: set[int] = set()
        unknown: set[int] = set()
        for n in range(40):
            if n == 10:
                machine.disk.capacity_bytes = machine.disk.used_bytes + room
            status = (await send(machine, pipeline, n, pad=1_000)).status
            (acknowledged if status == 200 else unknown).add(n)
            assert status in (200, 503, 507)
            await machine.clock.sleep_ms(300)
        machine.disk.capacity_bytes = 1 << 40
        machine.start_all()
        await machine.ready()
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        assert (await send(machine, pipeline, 100)).status == 200
        await machine.clock.sleep_ms(2 * MINUTE_MS)
        found = landed(machine)
        assert max(found.values()) == 1
        assert acknowledged <= found.keys() <= acknowledged | unknown | {100}
        assert not machine.disk.files(f"{FOLDER}/spool")

    simulate(story)


# -- coordinators that are away -----------------------------------------------------------------------------


def test_C1_a_drained_shard_reports_to_a_coordinator_that_was_away() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=2, endpoint=None))
        for slot in (0, 1):
            assert (await send(machine, pipeline, slot, slot=slot)).status == 200
        assert (
            await machine.control(0, "PUT", "/pipelines/p", settings(shards=2, endpoint=None, max_rows=9))
        ).status == 200
        machine.network.lose_request = 1.0
        await machine.clock.sleep_ms(20 * MINUTE_MS)
        machine.network.lose_request = 0.0
        await machine.clock.sleep_ms(3 * MINUTE_MS)
        deployments = (await machine.control(0, "GET", "/pipelines/p/deployments")).json()["result"]
        assert [generation["state"] for generation in deployments] == ["active", "drained"]
        assert read_records(machine.bucket(BUCKET)) == {0: 1, 1: 1}

    simulate(story, executors=2)


def test_C1_a_shard_that_could_report_only_later_rests_when_it_has() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=2, endpoint=None))
        for slot in (0, 1):
            assert (await send(machine, pipeline, slot, slot=slot)).status == 200
        machine.store.outage = True
        await machine.clock.sleep_ms(2_000)
        change = settings(shards=2, endpoint=None, max_rows=9)
        assert (await machine.control(0, "PUT", "/pipelines/p", change)).status == 200
        machine.store.outage = False
        machine.network.lose_request = 1.0
        await machine.clock.sleep_ms(5 * MINUTE_MS)
        machine.network.lose_request = 0.0
        await machine.clock.sleep_ms(3 * MINUTE_MS)
        before = machine.disk.operations
        await machine.clock.sleep_ms(5 * MINUTE_MS)
        assert machine.disk.operations - before < 100, "it is still busy"

    simulate(story, executors=2)


@pytest.mark.parametrize("what", ["update", "delete", "discard"])
def test_C1_what_shards_could_not_be_told_for_long_they_are_told_later(what: str) -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=2, endpoint=None))
        for slot in (0, 1):
            assert (await send(machine, pipeline, slot, slot=slot)).status == 200
        machine.network.lose_request = 1.0
        change = settings(shards=2, endpoint=None, max_rows=9)
        for slot in (0, 1):
            if what == "update":
                await machine.control(slot, "PUT", "/pipelines/p", change)
            else:
                await machine.control(
                    slot, "DELETE", f"/pipelines/p?discard={'true' if what == 'discard' else 'false'}"
                )
        await machine.clock.sleep_ms(30 * MINUTE_MS)
        machine.network.lose_request = 0.0
        await machine.clock.sleep_ms(15 * MINUTE_MS)
        if what == "update":
            deployments = (await machine.control(0, "GET", "/pipelines/p/deployments")).json()["result"]
            assert [generation["state"] for generation in deployments] == ["active", "drained"]
        else:
            for slot in (0, 1):
                assert (await machine.control(slot, "GET", "/pipelines/p")).status == 404
            assert (await machine.control(0, "POST", "/pipelines", settings(endpoint=None))).status == 200
        found = read_records(machine.bucket(BUCKET))
        assert found == {0: 1, 1: 1} or (what == "discard" and set(found) <= {0, 1})

    simulate(story, executors=2)


def test_a_deletion_that_discards_delivers_nothing_that_is_being_transformed() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(endpoint=None, transforms=[{"name": "slow"}]))
        assert (await send(machine, pipeline, 1)).status == 200
        await machine.clock.sleep_ms(2_500)  # it was due after one second, and takes three
        assert (await machine.control(0, "DELETE", "/pipelines/p?discard=true")).status == 200
        await machine.clock.sleep_ms(MINUTE_MS)
        assert not machine.bucket(BUCKET)
        assert not machine.disk.files(f"{FOLDER}/spool")

    simulate(story)
