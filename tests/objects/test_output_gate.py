"""Nothing leaves an object before what the object wrote is durable."""

from __future__ import annotations

import asyncio

import pytest

from penstock.base.errors import Conflict, Internal, StorageFull

from .notebook import Notebook
from .world import World, error_of, key_of, run, start, turns


def test_a_reply_is_held_until_its_write_is_durable() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        reply = start(notebook.add(1))
        await world.elapse(60_000)
        assert not reply.done()
        world.relay.sync()
        assert await reply == 1

    run(main, Notebook)


def test_the_first_reply_waits_for_what_the_constructor_wrote() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        world.relay.hold(key_of(notebook))
        reply = start(notebook.ping())
        await world.elapse(1_000)
        assert world.log == [("constructed", "a")]
        assert not reply.done()
        world.relay.release()
        assert await reply == "pong"

    run(main, Notebook)


def test_a_read_after_a_pending_write_is_held_too() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        written, read, pinged = start(notebook.add(1)), start(notebook.notes()), start(notebook.ping())
        await turns()
        later = start(notebook.notes())
        await turns()
        assert not any(call.done() for call in (written, read, pinged, later))
        world.relay.sync()
        assert await read == await later == [1]
        assert await pinged == "pong"

    run(main, Notebook)


def test_a_reply_is_not_held_when_everything_is_durable() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        world.relay.hold()
        before_ms, commits = world.clock.elapsed_ms(), world.relay.count(key_of(notebook))
        assert await notebook.notes() == [1]
        assert await notebook.ping() == "pong"
        assert world.clock.elapsed_ms() == before_ms
        assert world.relay.count(key_of(notebook)) == commits

    run(main, Notebook)


def test_replies_leave_as_far_as_the_log_is_durable() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        first = start(notebook.add(1))
        await turns()
        world.relay.sync()
        second = start(notebook.add(2))
        await turns()
        assert first.done() and not second.done()
        world.relay.sync()
        assert await second == 2

    run(main, Notebook)


@pytest.mark.parametrize(
    ("method", "kind"), [("add_and_refuse", Conflict), ("add_and_fail", Internal)], ids=["refusal", "bug"]
)
def test_an_error_is_held_as_a_result_is(method: str, kind: type[Exception]) -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        reply = start(getattr(notebook, method)(1))
        await turns()
        assert not reply.done()
        world.relay.sync()
        with pytest.raises(kind):
            await reply
        assert await notebook.notes() == [1]

    run(main, Notebook)


def test_a_call_to_another_object_is_held_until_the_write_before_it_is_durable() -> None:
    async def main(world: World) -> None:
        notebook, other = world.stub(Notebook), world.stub(Notebook, "b")
        await notebook.ping(), await other.ping()
        world.relay.hold(key_of(notebook))
        reply = start(notebook.add_and_tell(1, "b"))
        await world.elapse(1_000)
        assert await other.notes() == []
        world.relay.sync()
        assert await reply == 1
        assert await other.notes() == [1]

    run(main, Notebook)


def test_a_remote_call_is_held_as_a_local_one() -> None:
    async def main(world: World) -> None:
        notebook, other = world.stub_on(0, Notebook), world.stub_on(1, Notebook, "b")
        await notebook.ping(), await other.ping()
        world.relay.hold(key_of(notebook))
        reply = start(notebook.add_and_tell(1, other.id.name))
        await world.elapse(1_000)
        assert await other.notes() == []
        world.relay.sync()
        assert await reply == 1

    run(main, Notebook, executors=2)


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_a_call_does_not_overtake_one_that_the_gate_has_just_let_go(slot: int) -> None:
    async def main(world: World) -> None:
        notebook, other = world.stub_on(0, Notebook), world.stub_on(slot, Notebook, "b")
        name = other.id.name
        await notebook.ping(), await other.ping()
        world.relay.hold(key_of(notebook))
        calls = [start(notebook.add_and_tell(0, name))]
        await turns()

        def one_in_each_turn(left: int) -> None:
            calls.append(start(notebook.tell(len(calls), name)))
            if left:
                world.loop.call_soon(one_in_each_turn, left - 1)

        one_in_each_turn(10)
        world.loop.call_soon(world.relay.release)
        one_in_each_turn(10)
        await turns()
        await asyncio.gather(*calls)
        assert await other.notes() == list(range(len(calls)))

    run(main, Notebook, executors=2)


def test_an_upload_is_held_until_the_write_before_it_is_durable() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        reply = start(notebook.add_and_upload(1))
        await world.elapse(1_000)
        assert world.host.buckets.puts == []
        world.relay.sync()
        assert await reply == 1
        assert world.host.buckets.puts == ["1.txt"]

    run(main, Notebook)


def test_a_caller_that_gives_up_takes_nobody_with_it_and_undoes_nothing() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        gone, stays = start(notebook.add(1)), start(notebook.add(2))
        await turns()
        gone.cancel()
        await turns()
        world.relay.release()
        assert await stays == 2
        assert gone.cancelled()
        assert await notebook.notes() == [1, 2]
        await world.elapse(100_000)
        assert world.host.runtime.active == 0  # its call has ended for the object too

    run(main, Notebook)


def test_when_a_commit_fails_nothing_that_waited_for_it_leaves() -> None:
    async def main(world: World) -> None:
        notebook, other = world.stub(Notebook), world.stub(Notebook, "b")
        await notebook.add(1), await other.ping()
        with world.full_disk():
            outgoing = start(notebook.add_and_tell(2, "b"))
            upload = start(notebook.add_and_upload(3))
            written, read = start(notebook.add(4)), start(notebook.notes())
            for call in (outgoing, upload, written, read):
                assert isinstance(await error_of(call), StorageFull)
        assert await other.notes() == []
        assert world.host.buckets.puts == []

    run(main, Notebook)


def test_after_a_failed_commit_the_next_call_starts_the_object_from_what_is_durable() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        with world.full_disk():
            await error_of(notebook.add(2))
        assert await notebook.notes() == [1]
        assert world.log.count(("constructed", "a")) == 2
        assert world.host.runtime.statistics.broken == 1
        assert world.host.fatal == []

    run(main, Notebook)


def test_who_waits_for_a_commit_that_is_in_the_log_is_not_told_that_nothing_was_stored() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        world.relay.hold()
        in_the_log = start(notebook.add(2))
        await turns()
        with world.full_disk():
            assert isinstance(await error_of(notebook.add_much()), StorageFull)
        await turns()
        assert not in_the_log.done()
        world.relay.release()
        assert await in_the_log == 2
        assert await notebook.notes() == [1, 2]

    run(main, Notebook)
