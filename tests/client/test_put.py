"""`put`: records gathered and sent in the background; nothing lost without a word."""

from __future__ import annotations

import asyncio

import pytest

from penstock import AsyncClient, Invalid, SendError
from penstock.base.limits import CLIENT_REQUESTS_MAX
from penstock.client.ports import NoAnswer
from penstock.client.settings import ClientSettings

from .world import ENDPOINT, LOST, World, in_world, numbered, numbers, refused

HOUR_MS = 3_600_000


async def put(world: World, *which: int) -> None:
    for record in numbered(*which):
        await world.clicks.put(record)


def test_records_leave_together_when_the_first_of_them_is_old_enough() -> None:
    async def test(world: World) -> None:
        await put(world, 1)
        await world.clock.sleep_ms(200)
        await put(world, 2)
        await world.clock.sleep_ms(49)
        assert not world.server.seen
        await world.clock.sleep_ms(5)
        (post,) = world.server.seen
        assert (post.at_ms, numbers(post.records)) == (250, [1, 2])
        await world.clock.sleep_ms(HOUR_MS)
        assert len(world.server.seen) == 1

    in_world(test)


def test_records_leave_at_once_when_there_are_enough_of_them() -> None:
    async def test(world: World) -> None:
        await put(world, *range(25))
        await world.clock.sleep_ms(10)
        assert [numbers(post.records) for post in world.server.seen] == [[*range(10)], [*range(10, 20)]]
        await world.clock.sleep_ms(250)
        assert numbers(world.server.stored) == [*range(25)]

    in_world(test, ClientSettings(batch_records_max=10))


def test_records_leave_at_once_when_they_have_enough_bytes() -> None:
    async def test(world: World) -> None:
        for n in range(4):
            await world.clicks.put({"n": n, "x": "x" * 400})
        await world.clock.sleep_ms(10)
        assert [numbers(post.records) for post in world.server.seen] == [[0, 1]]
        await world.client.flush()
        assert [numbers(post.records) for post in world.server.seen] == [[0, 1], [2, 3]]

    in_world(test, ClientSettings(batch_bytes_max=1_000))


def test_a_flush_waits_until_all_that_was_put_is_stored() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 3_000
        world.server.script = [refused(503), LOST]
        await put(world, 1, 2)
        await world.clicks.flush()
        assert numbers(world.server.stored) == [1, 2]
        await world.clicks.flush()
        assert len(world.server.seen) == 3

    in_world(test)


def test_a_flush_does_not_wait_for_what_is_put_later() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 1_000
        await put(world, 1)
        async with asyncio.TaskGroup() as group:
            flush = group.create_task(world.clicks.flush())
            await world.clock.sleep_ms(990)
            await put(world, 2)
            await flush
            assert numbers(world.server.stored) == [1]

    in_world(test)


def test_only_so_many_batches_are_on_their_way_at_once() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 100
        await put(world, *range(20))
        await world.clicks.flush()
        assert world.server.most_at_once == CLIENT_REQUESTS_MAX
        assert sorted(numbers(world.server.stored)) == [*range(20)]

    in_world(test, ClientSettings(batch_records_max=1))


def test_putting_without_a_pause_does_not_keep_full_batches_from_leaving() -> None:
    async def test(world: World) -> None:
        await put(world, *range(25))
        assert numbers(world.server.seen[0].records) == [*range(10)]

    in_world(test, ClientSettings(batch_records_max=10))


def test_a_full_buffer_makes_put_wait_until_something_is_stored() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 1_000
        waits = []
        for n in range(12):
            before_ms = world.clock.elapsed_ms()
            await world.clicks.put({"n": n, "x": "x" * 90})
            waits.append(world.clock.elapsed_ms() - before_ms)
        # Nine records are 945 bytes; the first batches, of four each, are stored a second later.
        assert [n for n, waited_ms in enumerate(waits) if waited_ms > 0] == [9]
        assert waits[9] == 1_000

    in_world(test, ClientSettings(buffer_bytes_max=1_000, batch_bytes_max=500))


def test_a_record_larger_than_the_buffer_gets_through_alone() -> None:
    async def test(world: World) -> None:
        for n in range(3):
            await world.clicks.put({"n": n, "x": "x" * 5_000})
        await world.clicks.flush()
        assert [numbers(post.records) for post in world.server.seen] == [[0], [1], [2]]

    in_world(test, ClientSettings(buffer_bytes_max=1_000))


@pytest.mark.parametrize("next_call", ["put", "flush", "flush of the client", "close"])
def test_an_error_in_the_background_is_raised_by_the_next_call_once_with_all_records(next_call: str) -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(403, "Closed."), None, refused(400, "Wrong.")]
        await put(world, 1, 2, 3, 4, 5, 6)
        await world.clock.sleep_ms(1_000)
        calls = {
            "put": lambda: put(world, 7),
            "flush": world.clicks.flush,
            "flush of the client": world.client.flush,
            "close": world.client.close,
        }
        with pytest.raises(SendError, match="Closed") as error:
            await calls[next_call]()
        assert error.value.kind == "forbidden"
        assert error.value.pipeline == ENDPOINT
        assert numbers(error.value.records) == [1, 2, 5, 6, *([7] if next_call == "put" else [])]
        assert numbers(world.server.stored) == [3, 4]
        if next_call != "close":
            await put(world, 8)
            await world.client.flush()
            assert numbers(world.server.stored) == [3, 4, 8]

    in_world(test, ClientSettings(batch_records_max=2))


def test_those_that_wait_for_room_get_to_know_of_errors_too() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 100
        world.server.script = [refused(403)]
        with pytest.raises(SendError) as error:
            for n in range(10):
                await world.clicks.put({"n": n, "x": "x" * 90})
        assert numbers(error.value.records) == [0, 1, 2, 3, 9]
        await world.clicks.flush()
        assert sorted(numbers(world.server.stored)) == [4, 5, 6, 7, 8]

    in_world(test, ClientSettings(buffer_bytes_max=1_000, batch_bytes_max=500))


def test_a_server_that_is_away_for_less_than_the_deadline_costs_nothing() -> None:
    async def test(world: World) -> None:
        world.server.script = [NoAnswer("refused")] * 6
        await put(world, *range(10))
        await world.clicks.flush()
        assert numbers(world.server.stored) == [*range(10)]

    in_world(test)


def test_leaving_the_block_sends_what_was_put() -> None:
    async def test(world: World) -> None:
        async with world.client:
            await put(world, 1, 2)
            await world.client.pipeline("clicks").put({"n": 3})
        assert sorted(numbers(world.server.stored)) == [1, 2, 3]
        assert world.clock.elapsed_ms() < 10, "it does not wait for the batch to be old enough"

    in_world(test, entered=False)


def test_leaving_the_block_by_an_error_sends_it_too() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ZeroDivisionError):
            async with world.client:
                await put(world, 1, 2)
                raise ZeroDivisionError
        assert numbers(world.server.stored) == [1, 2]

    in_world(test, entered=False)


def test_closing_takes_a_bounded_time_and_raises_what_is_not_stored() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(503)] * 100
        await put(world, *range(25))
        with pytest.raises(SendError, match="close_ms_max, 2000, was not enough") as error:
            await world.client.close()
        assert world.clock.elapsed_ms() == 2_000
        assert error.value.kind == "unavailable"
        assert numbers(error.value.records) == [*range(25)]
        await world.clock.sleep_ms(HOUR_MS)
        assert not world.server.stored
        await world.client.close()

    in_world(test, ClientSettings(close_ms_max=2_000, batch_records_max=3))


def test_the_error_of_a_close_names_every_pipeline_that_has_one() -> None:
    async def test(world: World) -> None:
        other = world.client.pipeline("other")
        await put(world, 1)
        await other.put({"n": 2})
        world.server.script = [refused(403), refused(403)]
        with pytest.raises(SendError) as error:
            await world.client.close()
        errors = [error.value, *error.value.others]
        assert {each.pipeline: numbers(each.records) for each in errors} == {ENDPOINT: [1], "other": [2]}

    in_world(test)


def test_a_cancelled_block_stays_cancelled_and_notes_what_was_not_sent() -> None:
    async def test(world: World) -> None:
        world.server.script = [refused(403, "Closed.")]

        notes: list[str] = []

        async def work() -> None:
            try:
                async with world.client:
                    await put(world, 1)
                    await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                notes.extend(error.__notes__)
                raise

        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            await world.clock.sleep_ms(1)
            task.cancel()
        assert task.cancelled()
        assert notes == [f"1 record not sent to {ENDPOINT}: Closed."]
        assert world.server.closed and len(world.server.seen) == 1

    in_world(test, entered=False)


def test_a_put_that_is_cancelled_while_it_waits_is_not_taken() -> None:
    async def test(world: World) -> None:
        world.server.latency_ms = 1_000
        await world.clicks.put({"n": 0, "x": "x" * 2_000})
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(world.clicks.put({"n": 1}))
            await world.clock.sleep_ms(100)
            waiting.cancel()
        await world.clicks.flush()
        await put(world, 2)
        await world.clicks.flush()
        assert numbers(world.server.stored) == [0, 2]

    in_world(test, ClientSettings(buffer_bytes_max=1_000))


def test_a_bug_while_sending_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.server.pipelines = None  # type: ignore[assignment]
        await put(world, 1)
        with pytest.raises(SendError, match="AttributeError") as error:
            await world.clicks.flush()
        assert (error.value.kind, numbers(error.value.records)) == ("internal", [1])

    in_world(test)


def test_records_are_taken_as_they_are_when_they_are_put() -> None:
    async def test(world: World) -> None:
        record = {"n": 1}
        await world.clicks.put(record)
        record["n"] = 2
        await world.clicks.flush()
        assert numbers(world.server.stored) == [1]
        with pytest.raises(Invalid, match="The record is a int"):
            await world.clicks.put(3)

    in_world(test)


@pytest.mark.parametrize(
    "wrong",
    [
        {"compression": "zstd"},
        {"batch_ms_max": 0},
        {"deadline_ms": 1.5},
        {"body_bytes_max": 10**9},
        {"batch_records_max": True},
    ],
)
def test_settings_that_cannot_hold_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid, match=next(iter(wrong))):
        AsyncClient(settings=ClientSettings(**wrong))  # type: ignore[arg-type]
