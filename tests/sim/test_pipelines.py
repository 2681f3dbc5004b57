"""What pipelines do over time, on virtual time."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from msgspec import json

from penstock.objects import activation
from penstock.pipelines import scaling, stream_shard
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import MachineSettings, SimMachine
from penstock.testing.sim.scenario import read_records

BUCKET = "bucket"
HOUR_MS = 3_600_000


def simulate(story: Callable[[SimMachine], Awaitable[None]], executors: int = 1) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with SimMachine(loop, "pipelines", MachineSettings(executors=executors)) as machine:
            await story(machine)

    run_virtual(main)


def settings(source: Iterable[str] = ("http",), shards: int | None = 1, **batch: Any) -> dict[str, Any]:
    return {
        "name": "p",
        "metadata": {"shards": shards},
        "source": [{"type": kind, "format": "json"} for kind in source],
        "destination": {
            "type": "r2",
            "format": "json",
            "path": {"bucket": BUCKET},
            "compression": {"type": "gzip"},
            "batch": batch,
        },
    }


async def create(machine: SimMachine, body: dict[str, Any]) -> str:
    answer = await machine.control(0, "POST", "/pipelines", body)
    assert answer.status == 200, answer
    id_: str = answer.json()["result"]["id"]
    return id_


async def send(machine: SimMachine, pipeline: str, *numbers: int, slot: int = 0) -> int:
    body = json.encode([{"n": n} for n in numbers])
    return (await machine.request(slot, "POST", f"/ingest/{pipeline}", body)).status


def test_a_file_is_due_after_its_time_and_not_before() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=10))
        assert await send(machine, pipeline, 1) == 200
        await machine.clock.sleep_ms(9_000)
        assert await send(machine, pipeline, 2) == 200
        assert not machine.bucket(BUCKET)
        await machine.clock.sleep_ms(1_500)
        assert read_records(machine.bucket(BUCKET)) == {1: 1, 2: 1}
        assert len(machine.bucket(BUCKET)) == 1

    simulate(story)


def test_a_file_is_due_at_its_number_of_records_at_once() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_rows=3, max_duration_s=300))
        assert await send(machine, pipeline, 1, 2) == 200
        await machine.clock.sleep_ms(500)
        assert not machine.bucket(BUCKET)
        assert await send(machine, pipeline, 3) == 200
        await machine.clock.sleep_ms(500)
        assert read_records(machine.bucket(BUCKET)) == {1: 1, 2: 1, 3: 1}

    simulate(story)


def test_a_file_never_crosses_an_hour() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=300))
        now_ms = machine.clock.now_ms()
        await machine.clock.sleep_ms(HOUR_MS - now_ms % HOUR_MS - 1_000)
        assert await send(machine, pipeline, 1) == 200
        await machine.clock.sleep_ms(2_000)
        assert await send(machine, pipeline, 2) == 200
        await machine.clock.sleep_ms(400_000)
        hours = {key.split("/")[1]: list(read_records({key: c})) for key, c in machine.bucket(BUCKET).items()}
        assert hours == {"hr=00": [1], "hr=01": [2]}

    simulate(story)


def test_D1_the_clock_goes_back_and_names_stay_in_order_and_nothing_is_lost() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        order: list[str] = []
        for n, jump_ms in enumerate([0, -HOUR_MS, 5_000, HOUR_MS, -1, 0]):
            machine.clock.jump_ms(jump_ms)
            assert await send(machine, pipeline, n) == 200
            before = set(machine.bucket(BUCKET))
            # At the latest when the clock shows again what it showed when the record came.
            for _ in range(HOUR_MS // 1_000 + 10):
                await machine.clock.sleep_ms(1_000)
                if set(machine.bucket(BUCKET)) - before:
                    break
            order += sorted(set(machine.bucket(BUCKET)) - before)
        assert read_records(machine.bucket(BUCKET)) == dict.fromkeys(range(6), 1)
        ulids = [key.rsplit("/", 1)[1] for key in order]
        assert ulids == sorted(ulids)

    simulate(story)


def test_D1_a_record_from_before_a_jump_forward_is_delivered_at_once() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=300))
        assert await send(machine, pipeline, 1) == 200
        machine.clock.jump_ms(HOUR_MS)
        await machine.clock.sleep_ms(1_500)
        assert read_records(machine.bucket(BUCKET)) == {1: 1}

    simulate(story)


def test_what_an_old_plan_forbids_is_asked_again_before_it_is_refused() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(source=["binding"], shards=2))
        assert [await send(machine, pipeline, 1, slot=slot) for slot in (0, 1)] == [403, 403]
        assert (await machine.control(0, "PUT", "/pipelines/p", settings(shards=2, max_duration_s=1))).status == 200
        await machine.clock.sleep_ms(1_100)
        assert [await send(machine, pipeline, 2 + slot, slot=slot) for slot in (0, 1)] == [200, 200]

    simulate(story, executors=2)


def test_a_stricter_plan_holds_on_every_executor_at_once() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=2))
        assert [await send(machine, pipeline, 1 + slot, slot=slot) for slot in (0, 1)] == [200, 200]
        assert (
            await machine.control(0, "PUT", "/pipelines/p", settings(source=["binding"], shards=2))
        ).status == 200
        assert [await send(machine, pipeline, 3, slot=slot) for slot in (0, 1)] == [403, 403]

    simulate(story, executors=2)


def test_a_deleted_pipeline_delivers_what_it_took_and_takes_no_more() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=2, max_duration_s=300))
        assert [await send(machine, pipeline, 1 + slot, slot=slot) for slot in (0, 1)] == [200, 200]
        assert (await machine.control(1, "DELETE", "/pipelines/p")).status == 200
        assert [await send(machine, pipeline, 3, slot=slot) for slot in (0, 1)] == [404, 404]
        await machine.clock.sleep_ms(2_000)
        assert read_records(machine.bucket(BUCKET)) == {1: 1, 2: 1}

    simulate(story, executors=2)


def test_no_bug_in_making_a_file_ends_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """More failures than an alarm has retries, of a kind that nobody foresaw."""
    failures, make = 0, stream_shard.file_chunks

    def fail_at_first(*args: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures <= 10:
            raise ZeroDivisionError("a bug")
        return make(*args)

    monkeypatch.setattr(stream_shard, "file_chunks", fail_at_first)

    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        assert await send(machine, pipeline, 1) == 200
        await machine.clock.sleep_ms(600_000)
        assert failures == 11
        assert read_records(machine.bucket(BUCKET)) == {1: 1}

    simulate(story)


def test_a_bucket_that_fails_for_hours_loses_nothing_and_recovers_by_itself() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        machine.store.outage = True
        for n in range(6):
            assert await send(machine, pipeline, n) == 200
            await machine.clock.sleep_ms(HOUR_MS)
        assert not machine.bucket(BUCKET)
        assert machine.store.failures > 300
        machine.store.outage = False
        await machine.clock.sleep_ms(61_000)
        assert read_records(machine.bucket(BUCKET)) == dict.fromkeys(range(6), 1)

    simulate(story)


def test_a_put_whose_answer_was_lost_makes_no_second_file() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        machine.store.lose_answer = 1.0
        assert await send(machine, pipeline, 1) == 200
        await machine.clock.sleep_ms(30_000)
        assert machine.store.failures > 3
        machine.store.lose_answer = 0.0
        await machine.clock.sleep_ms(61_000)
        assert read_records(machine.bucket(BUCKET)) == {1: 1}
        assert len(machine.bucket(BUCKET)) == 1

    simulate(story)


def test_files_are_gzip_of_one_record_a_line() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        assert await send(machine, pipeline, 1, 2) == 200
        await machine.clock.sleep_ms(2_000)
        (content,) = machine.bucket(BUCKET).values()
        assert gzip.decompress(content) == b'{"n":1}\n{"n":2}\n'

    simulate(story)


def test_no_bug_in_sealing_a_file_ends_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, name = True, stream_shard.next_ulid

    def fail_at_first(*args: Any) -> str:
        if broken:
            raise ZeroDivisionError("a bug")
        return name(*args)

    monkeypatch.setattr(stream_shard, "next_ulid", fail_at_first)

    async def story(machine: SimMachine) -> None:
        nonlocal broken
        pipeline = await create(machine, settings(max_duration_s=1))
        for n in range(20):
            assert await send(machine, pipeline, n) == 200
            await machine.clock.sleep_ms(60_000)
        broken = False
        await machine.clock.sleep_ms(61_000)
        assert read_records(machine.bucket(BUCKET)) == dict.fromkeys(range(20), 1)

    simulate(story)


def test_D1_a_clock_that_was_far_ahead_and_was_put_right_delays_nothing() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        machine.clock.jump_ms(10 * 365 * 24 * HOUR_MS)
        assert await send(machine, pipeline, 1) == 200
        machine.clock.jump_ms(-10 * 365 * 24 * HOUR_MS)
        assert await send(machine, pipeline, 2) == 200
        await machine.clock.sleep_ms(100)
        assert read_records(machine.bucket(BUCKET)) == {1: 1, 2: 1}
        assert await send(machine, pipeline, 3) == 200
        await machine.clock.sleep_ms(2_000)
        dates = {key.split("/")[0]: list(read_records({key: c})) for key, c in machine.bucket(BUCKET).items()}
        assert dates["event_date=2025-01-01"] == [3]

    simulate(story)


def test_a_change_of_settings_does_not_put_off_a_retry() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=1))
        machine.store.outage = True
        assert await send(machine, pipeline, 1) == 200
        await machine.clock.sleep_ms(3_000)
        machine.store.outage = False
        assert (await machine.control(0, "PUT", "/pipelines/p", settings(max_duration_s=300))).status == 200
        await machine.clock.sleep_ms(10_000)
        assert read_records(machine.bucket(BUCKET)) == {1: 1}

    simulate(story)


def test_very_many_files_are_sealed_a_few_at_a_time() -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(max_duration_s=300))
        for n in range(500):
            assert await send(machine, pipeline, n) == 200
        assert (await machine.control(0, "PUT", "/pipelines/p", settings(max_rows=1))).status == 200
        await machine.clock.sleep_ms(60)
        assert 0 < len(machine.bucket(BUCKET)) < 100
        assert await send(machine, pipeline, 500) == 200
        await machine.clock.sleep_ms(60_000)
        assert read_records(machine.bucket(BUCKET)) == dict.fromkeys(range(501), 1)

    simulate(story)


def test_shards_are_added_under_load_and_taken_away_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(machine: SimMachine) -> None:
        pipeline = await create(machine, settings(shards=None, max_duration_s=1))
        sent = 0

        async def load(seconds: int) -> int:
            """Many requests at once, as a busy executor has them; gives the number of shards after it."""
            nonlocal sent
            for _ in range(seconds // 5):
                statuses = await asyncio.gather(*(send(machine, pipeline, sent + n) for n in range(40)))
                assert set(statuses) == {200}
                sent += 40
                await machine.clock.sleep_ms(5_000)
            shards = (await machine.control(0, "GET", "/pipelines/p")).json()["result"]["shards"]
            return sum(shard["state"] == "open" for shard in shards)

        # However many requests come at once, it is one word to the coordinator.
        monkeypatch.setattr(activation, "WAIT_UNTIL_MAX", 2)
        monkeypatch.setattr(scaling, "SHARD_REQUESTS_PER_S", 1)
        assert await load(60) > 5
        # It could do with a quarter of that, but takes no more away than leaves room to grow.
        monkeypatch.setattr(scaling, "SHARD_REQUESTS_PER_S", 4)
        assert await load(120) > 5
        monkeypatch.setattr(scaling, "SHARD_REQUESTS_PER_S", 1_000_000)
        assert await load(180) == 2
        await machine.clock.sleep_ms(10_000)
        assert read_records(machine.bucket(BUCKET)) == dict.fromkeys(range(sent), 1)

    simulate(story)
