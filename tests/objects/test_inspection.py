"""An object seen from outside: nothing before it is durable, wherever the object lives, and nobody is woken."""

from __future__ import annotations

import pytest

from penstock.base.errors import Invalid, NotFound
from penstock.objects.inspection import Inspection

from .notebook import Notebook
from .world import HOUR_MS, World, error_of, key_of, run, start, turns

COUNT = "SELECT count(*) FROM notes"


def inspection(world: World, slot: int = 0) -> Inspection:
    return Inspection(world.hosts[slot].runtime, "/data")


def test_rows_are_shown_only_when_they_are_durable() -> None:
    async def main(world: World) -> None:
        stub = world.stub(Notebook)
        await stub.add(1)
        world.relay.hold(key_of(stub))
        added = start(stub.add(2))
        await turns()
        shown = start(inspection(world).query("Notebook", key_of(stub), COUNT, 10))
        described = start(inspection(world).describe("Notebook", [key_of(stub)]))
        await world.elapse(1_000)
        assert not added.done() and not shown.done() and not described.done()
        world.relay.release()
        assert (await shown).rows == [[2]]
        assert [found.name for found in await described] == ["a"]
        assert await added == 2

    run(main, Notebook)


def test_an_evicted_object_is_seen_and_stays_away() -> None:
    async def main(world: World) -> None:
        stub = world.stub(Notebook)
        await stub.add(1)
        await world.elapse(HOUR_MS)
        assert world.host.runtime.active == 0
        [found] = await inspection(world).describe("Notebook", [key_of(stub)])
        assert (found.name, found.active, found.failures) == ("a", False, 0)
        assert (await inspection(world).query("Notebook", key_of(stub), COUNT, 10)).rows == [[1]]
        assert world.host.runtime.active == 0
        assert await stub.add(2) == 2  # it starts as ever afterwards
        assert await stub.notes() == [1, 2]

    run(main, Notebook)


def test_what_a_killed_executor_left_is_seen_and_is_made_durable_first() -> None:
    async def main(world: World) -> None:
        stub = world.stub(Notebook)
        await stub.add(1)
        world.relay.hold(key_of(stub))
        start(stub.add(2)).add_done_callback(lambda call: call.cancelled() or call.exception())
        await turns()
        await world.host.kill()
        await world.start()
        assert (await inspection(world).query("Notebook", key_of(stub), COUNT, 10)).rows == [[2]]
        await world.host.kill()
        world.disk.power_cut()
        await world.start()
        assert await world.stub(Notebook).notes() == [1, 2]

    run(main, Notebook)


def test_objects_of_other_executors_are_asked_for_there_and_errors_are_the_same() -> None:
    async def main(world: World) -> None:
        stubs = [world.stub_on(slot, Notebook) for slot in (0, 1)]
        keys = [key_of(stub) for stub in stubs]
        for stub in stubs:
            await stub.add(1)
        for slot in (0, 1):
            view = inspection(world, slot)
            assert await view.keys("Notebook", "", 10) == sorted(keys)
            assert await view.keys("Notebook", min(keys), 10) == [max(keys)]
            found = await view.describe("Notebook", [*keys, "0" * 64])
            assert [(one.id, one.active) for one in found] == [(key, True) for key in keys]
            for key in keys:
                assert (await view.query("Notebook", key, "SELECT note, x'00' FROM notes", 10)).rows == [[1, b"\0"]]
                assert isinstance(await error_of(view.query("Notebook", key, "DELETE FROM notes", 10)), Invalid)
            assert isinstance(await error_of(view.query("Notebook", "0" * 64, COUNT, 10)), NotFound)

    async def answering(world: World) -> None:
        for slot, host in world.hosts.items():
            view = inspection(world, slot)

            async def answer(payload: bytes, view: Inspection = view, host: object = host) -> bytes:
                if payload.startswith(b"inspect"):
                    return await view.answer(payload)
                return await host.runtime.answer(payload)  # type: ignore[attr-defined]

            await host._transport.serve(answer)
        await main(world)

    run(answering, Notebook, executors=2)


@pytest.mark.parametrize("payload", [b"inspect", b"inspect\x00", b"inspect\x92\xa4nope\xc4\x01\x90"])
def test_a_question_that_is_not_understood_is_an_error_and_no_crash(payload: bytes) -> None:
    async def main(world: World) -> None:
        assert b"internal" in await inspection(world).answer(payload)

    run(main, Notebook)


def test_a_damaged_object_does_not_hide_the_others() -> None:
    async def main(world: World) -> None:
        good, bad = world.stub(Notebook, "good"), world.stub(Notebook, "bad")
        await good.add(1), await bad.add(1)
        await world.elapse(HOUR_MS)
        path = world.host.runtime.path("Notebook", key_of(bad))
        world.host._mount.write(path, [b"not a database at all" * 1_000])
        found = await inspection(world).describe("Notebook", [key_of(bad), key_of(good)])
        assert [(one.name, one.error is None) for one in found] == [(None, False), ("good", True)]
        assert "is damaged" in str(found[0].error) and found[0].size_bytes == 21_000

    run(main, Notebook)


@pytest.mark.parametrize("sql", ["SELECT zeroblob(1000000000)", "SELECT length(hex(zeroblob(1200000)))"])
def test_a_query_from_outside_cannot_take_more_memory_than_one_of_the_object(sql: str) -> None:
    async def main(world: World) -> None:
        stub = world.stub(Notebook)
        await stub.add(1)
        error = await error_of(inspection(world).query("Notebook", key_of(stub), sql, 10))
        assert isinstance(error, Invalid) and "too big" in error.message

    run(main, Notebook)
