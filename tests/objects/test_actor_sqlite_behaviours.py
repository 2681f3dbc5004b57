"""What workerd's `io/actor-sqlite-test.c++` asks of storage and alarms, asked of ours.

Each test says which of those tests it answers to; further ones are answered in `test_alarms.py`,
`test_transactions.py` and `test_delete_all.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from penstock.base.errors import StorageFull
from penstock.base.limits import ALARM_RETRY_BASE_MS
from penstock.objects.storage import ObjectStorage

from .box import Box, do
from .world import HOUR_MS, World, error_of, key_of, run, start, turns


def in_world(main: Callable[[World], Any]) -> None:
    run(main, Box)


async def set_alarm(world: World, at_ms: int | None) -> None:
    def work(storage: ObjectStorage) -> None:
        if at_ms is None:
            storage.delete_alarm()
        else:
            storage.set_alarm(at_ms)

    await do(world, work)


async def get_alarm(world: World) -> int | None:
    at_ms: int | None = await do(world, lambda storage: storage.get_alarm())
    return at_ms


def indexed_ms(world: World) -> int | None:
    return world.host.runtime.alarms.indexed_ms(world.stub(Box).id)


def commits(world: World) -> int:
    return world.relay.count(key_of(world.stub(Box)))


async def index_writes(world: World) -> int:
    await turns()
    return world.relay.count("alarms")


def hours(world: World, count: float) -> int:
    """A time so many hours after the first use of this function."""
    start_ms: int = world.env.__dict__.setdefault("start_ms", world.clock.now_ms())
    return start_ms + int(count * HOUR_MS)


# -- setting and getting -------------------------------------------------------------------------------------------


def test_the_alarm_is_unset_at_first_and_is_what_was_set() -> None:
    """initial alarm value is unset; can set and get alarm"""

    async def main(world: World) -> None:
        assert await get_alarm(world) is None
        await set_alarm(world, hours(world, 1))
        assert await get_alarm(world) == indexed_ms(world) == hours(world, 1)

    in_world(main)


def test_an_alarm_is_in_the_same_commit_as_the_other_writes_of_its_step() -> None:
    """alarm write happens transactionally with storage ops"""

    async def main(world: World) -> None:
        await get_alarm(world)
        before, at_ms = commits(world), hours(world, 1)

        def work(storage: ObjectStorage) -> None:
            storage.set_alarm(at_ms)
            storage.kv.put("foo", "bar")

        await do(world, work)
        assert commits(world) == before + 1
        await world.host.kill()
        await world.start()
        assert await get_alarm(world) == at_ms
        assert await do(world, lambda storage: storage.kv.get("foo")) == "bar"

    in_world(main)


def test_a_write_that_leaves_the_alarm_alone_does_not_wait_for_the_index() -> None:
    """storage op without alarm change does not wait on scheduler"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 1))
        await turns()
        world.relay.hold("alarms")
        before = await index_writes(world)
        await do(world, lambda storage: storage.kv.put("foo", "bar"))
        assert await index_writes(world) == before

    in_world(main)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_earlier_alarm_is_indexed_when_its_step_ends_and_before_it_commits(depth: int) -> None:
    """alarm scheduling starts synchronously before implicit local db commit; ... before explicit local db commit;
    alarm scheduling does not start synchronously before nested explicit local db commit"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 2))
        world.relay.hold("alarms")
        before, index_before, at_ms = commits(world), await index_writes(world), hours(world, 1)

        def work(storage: ObjectStorage) -> None:
            def change(left: int) -> None:
                if left:
                    storage.transaction_sync(lambda: change(left - 1))
                else:
                    storage.set_alarm(at_ms)

            change(depth)
            assert indexed_ms(world) == hours(world, 2)  # nothing yet

        call = start(do(world, work))
        await turns()
        assert (commits(world), await index_writes(world)) == (before, index_before + 1)
        world.relay.release()
        await call
        assert commits(world) == before + 1

    in_world(main)


def test_an_alarm_can_be_cleared_and_the_commit_comes_first() -> None:
    """can clear alarm"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 1))
        await turns()
        world.relay.log.clear()
        await set_alarm(world, None)
        assert await get_alarm(world) is None
        await turns()
        key = key_of(world.stub(Box))
        assert world.relay.log == [("ship", key), ("durable", key), ("ship", "alarms"), ("durable", "alarms")]
        assert indexed_ms(world) is None

    in_world(main)


def test_of_two_alarms_in_one_step_only_the_last_is_indexed() -> None:
    """can set alarm twice"""

    async def main(world: World) -> None:
        await get_alarm(world)
        index_before = await index_writes(world)

        def work(storage: ObjectStorage) -> None:
            storage.set_alarm(hours(world, 1))
            storage.set_alarm(hours(world, 2))

        await do(world, work)
        assert await get_alarm(world) == indexed_ms(world) == hours(world, 2)
        assert await index_writes(world) == index_before + 1

    in_world(main)


def test_setting_the_alarm_that_is_set_writes_nothing() -> None:
    """setting duplicate alarm is no-op"""

    async def main(world: World) -> None:
        await get_alarm(world)
        for at_ms in (None, hours(world, 1)):
            await set_alarm(world, at_ms)
            before, index_before = commits(world), await index_writes(world)
            await set_alarm(world, at_ms)
            assert (commits(world), await index_writes(world)) == (before, index_before)

    in_world(main)


# -- the handler -----------------------------------------------------------------------------------------------


def test_an_entry_of_the_index_without_an_alarm_runs_nothing_and_goes_away() -> None:
    """tells alarm handler to cancel when committed alarm is empty"""

    async def main(world: World) -> None:
        await get_alarm(world)
        await world.host.runtime.alarms.schedule(world.stub(Box).id, world.clock.now_ms())
        await world.elapse(2_000)
        assert not hasattr(world.env, "fired") and indexed_ms(world) is None

    in_world(main)


def test_an_entry_that_is_earlier_than_the_alarm_runs_nothing_and_is_put_right() -> None:
    """tells alarm handler to reschedule when handler alarm is earlier than committed alarm"""

    async def main(world: World) -> None:
        at_ms = hours(world, 1)
        await set_alarm(world, at_ms)
        await world.host.runtime.alarms.schedule(world.stub(Box).id, world.clock.now_ms())
        await world.elapse(2_000)
        assert not hasattr(world.env, "fired") and indexed_ms(world) == at_ms

    in_world(main)


@pytest.mark.parametrize("later_ms", [HOUR_MS, -500])
def test_an_alarm_that_is_moved_while_its_entry_fires_counts_where_it_was_moved_to(later_ms: int) -> None:
    """does not cancel handler when local db alarm state is later (or earlier) than scheduled alarm. Ours goes by
    what is written, not by what is committed: the object has one thread, so the change came before the alarm. If
    its commit fails, the object starts again and the old entry fires again."""

    async def main(world: World) -> None:
        at_ms = world.clock.now_ms() + 1_000
        await set_alarm(world, at_ms)
        world.relay.hold(key_of(world.stub(Box)))
        moving = start(set_alarm(world, at_ms + later_ms))  # in the log, but not durable when the entry fires
        await world.elapse(3_000)
        assert hasattr(world.env, "fired") == (later_ms < 0)
        world.relay.release()
        await moving
        await world.elapse(1_000)
        assert await get_alarm(world) == (None if later_ms < 0 else at_ms + later_ms)

    in_world(main)


def fire(world: World, on_alarm: Callable[[ObjectStorage], Any] | None) -> Any:
    """Set an alarm that is due, with this handler, and let it fire."""
    world.env.on_alarm = on_alarm

    async def fired() -> None:
        await set_alarm(world, world.clock.now_ms())
        await world.until(lambda: getattr(world.env, "fired", 0) == 1)
        await world.elapse(100)

    return fired()


def test_a_handler_sees_no_alarm_and_leaves_none() -> None:
    """getAlarm() returns null during handler; alarm handler handle clears alarm when dropped with no writes"""
    seen = []

    async def main(world: World) -> None:
        await fire(world, lambda storage: seen.append(storage.get_alarm()))
        assert seen == [None]
        assert await get_alarm(world) is None and indexed_ms(world) is None

    in_world(main)


def test_an_alarm_that_the_handler_sets_is_kept() -> None:
    """alarm deleter does not clear alarm when dropped with writes"""

    async def main(world: World) -> None:
        at_ms = hours(world, 1)
        await fire(world, lambda storage: storage.set_alarm(at_ms))
        assert await get_alarm(world) == indexed_ms(world) == at_ms

    in_world(main)


def test_the_alarm_of_a_handler_that_fails_is_kept_for_the_retry() -> None:
    """can cancel deferred alarm deletion during handler"""

    async def main(world: World) -> None:
        def fail(_storage: ObjectStorage) -> None:
            raise RuntimeError("a bug")

        await fire(world, fail)
        at_ms = await get_alarm(world)
        assert at_ms is not None and at_ms == indexed_ms(world)
        assert 0 < at_ms - world.clock.now_ms() <= ALARM_RETRY_BASE_MS * 1.25

    in_world(main)


def test_an_alarm_whose_removal_cannot_be_committed_fires_again() -> None:
    """handler alarm is not deleted when commit fails"""

    async def main(world: World) -> None:
        def fill(_storage: ObjectStorage) -> None:
            world.disk.capacity_bytes = 0

        world.env.on_alarm = fill
        await set_alarm(world, world.clock.now_ms() + 1_000)
        await world.until(lambda: world.host.runtime.statistics.broken == 1)
        world.env.on_alarm = None
        world.disk.capacity_bytes = 1 << 40
        await world.until(lambda: world.env.fired >= 2)
        await world.elapse(5_000)
        assert await get_alarm(world) is None and indexed_ms(world) is None

    in_world(main)


def test_an_alarm_set_in_a_transaction_of_the_handler_is_kept() -> None:
    """committing transaction leaves deferred alarm deletion in expected state"""

    async def main(world: World) -> None:
        at_ms = hours(world, 1)

        def handle(storage: ObjectStorage) -> None:
            storage.transaction_sync(lambda: storage.set_alarm(at_ms))
            assert storage.get_alarm() == at_ms

        await fire(world, handle)
        assert await get_alarm(world) == at_ms

    in_world(main)


def test_alarms_set_in_nested_transactions_of_the_handler_go_with_what_is_undone() -> None:
    """rolling back nested transaction leaves deferred alarm deletion in expected state"""

    async def main(world: World) -> None:
        at_ms, seen = hours(world, 1), []

        def handle(storage: ObjectStorage) -> None:
            def undone(work: Callable[[], Any]) -> None:
                def fail() -> None:
                    work()
                    raise KeyError

                with pytest.raises(KeyError):
                    storage.transaction_sync(fail)
                seen.append(storage.get_alarm())

            def outer() -> None:
                undone(lambda: storage.set_alarm(at_ms))
                storage.transaction_sync(lambda: storage.set_alarm(at_ms))
                seen.append(storage.get_alarm())
                undone(lambda: storage.delete_alarm())
                undone(lambda: None)

            undone(outer)

        await fire(world, handle)
        assert seen == [None, at_ms, at_ms, at_ms, None]
        assert await get_alarm(world) is None and indexed_ms(world) is None

    in_world(main)


# -- the order of index and commit --------------------------------------------------------------------------------


def test_earlier_and_earlier_alarms_wait_for_the_earliest_and_become_one_commit() -> None:
    """multiple set-earlier in-flight alarms wait for earliest before committing db"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 5))
        await turns()
        before = commits(world)
        world.relay.hold("alarms")
        calls = []
        for count in (4, 3, 2):
            calls.append(start(set_alarm(world, hours(world, count))))
            await turns()
        world.relay.sync()  # the index has 4, now it is asked for 2
        await turns()
        calls.append(start(set_alarm(world, hours(world, 1))))
        await turns()
        world.relay.sync()  # the index has 2
        await turns()
        assert commits(world) == before and not any(call.done() for call in calls)
        assert indexed_ms(world) == hours(world, 1)
        world.relay.release()
        await asyncio.gather(*calls)
        assert commits(world) == before + 1
        assert await get_alarm(world) == hours(world, 1)

    in_world(main)


def test_later_and_later_alarms_are_indexed_after_their_commits_are_durable() -> None:
    """setting later alarm times does scheduling after db commit"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 1))
        await turns()
        world.relay.hold(key_of(world.stub(Box)))
        calls = []
        for count in (2, 3):
            calls.append(start(set_alarm(world, hours(world, count))))
            await turns()
        assert indexed_ms(world) == hours(world, 1) and not any(call.done() for call in calls)
        world.relay.sync()
        await turns()
        assert calls[0].done() and not calls[1].done()
        assert indexed_ms(world) in (hours(world, 1), hours(world, 2))  # never later than what is durable
        world.relay.release()
        await asyncio.gather(*calls)
        await turns()
        assert indexed_ms(world) == hours(world, 3)

    in_world(main)


def test_an_alarm_that_is_earlier_than_one_on_its_way_to_the_index_is_indexed_before_its_commit() -> None:
    """in-flight later alarm times don't affect subsequent commits"""

    async def main(world: World) -> None:
        await set_alarm(world, hours(world, 1))
        await turns()
        world.relay.hold("alarms")
        await set_alarm(world, hours(world, 5))
        await turns()  # durable, but the index is not
        before = commits(world)
        call = start(set_alarm(world, hours(world, 2)))
        await turns()
        assert commits(world) == before and not call.done()
        world.relay.release()
        await call
        assert indexed_ms(world) == hours(world, 2)

    in_world(main)


# -- breaking ------------------------------------------------------------------------------------------------------


def test_when_the_index_fails_whoever_waits_for_it_is_told_and_the_old_alarm_is_back() -> None:
    """rejected alarm scheduling request breaks gate; synchronous alarm scheduling failure causes local db commit to
    throw synchronously; an exception thrown during merged commits does not hang"""

    async def main(world: World) -> None:
        at_ms = hours(world, 5)
        await set_alarm(world, at_ms)
        await turns()
        world.relay.hold("alarms")
        calls = []
        for count in (4, 3):
            calls.append(start(error_of(set_alarm(world, hours(world, count)))))
            await turns()
        world.host.runtime.alarms._committer.break_with(StorageFull("no room for the index"))
        world.relay.release()
        for call in calls:
            assert isinstance(await call, StorageFull)
        await world.elapse(2_000)
        assert await get_alarm(world) == at_ms

    in_world(main)


def test_a_broken_object_reads_and_writes_nothing_any_more() -> None:
    """getAlarm/setAlarm check for brokenness; database write operations check for brokenness"""

    async def main(world: World) -> None:
        broken: list[ObjectStorage] = []

        async def work(storage: ObjectStorage) -> None:
            broken.append(storage)
            storage.kv.put("foo", "bar")
            with world.full_disk():
                await asyncio.sleep(0.001)  # the commit fails

        await get_alarm(world)
        with pytest.raises(StorageFull):
            await do(world, work)
        [storage] = broken
        for use in (
            storage.get_alarm,
            lambda: storage.set_alarm(1),
            storage.delete_alarm,
            storage.delete_all,
            lambda: storage.kv.get("foo"),
            lambda: storage.kv.put("foo", 2),
            lambda: storage.sql.exec("SELECT 1"),
            lambda: storage.sql.exec("CREATE TABLE t (a)"),
            lambda: storage.sql.database_size,
            lambda: storage.transaction_sync(lambda: None),
        ):
            with pytest.raises(StorageFull):
                use()
        with pytest.raises(StorageFull):
            await storage.sync()
        assert await do(world, lambda storage: storage.kv.get("foo")) is None

    in_world(main)


def test_a_full_disk_breaks_the_object_even_if_its_error_is_caught() -> None:
    """From workerd's `api/sql-critical-error-test.js`: SQLite has rolled back what the step wrote before."""

    async def main(world: World) -> None:
        def work(storage: ObjectStorage) -> None:
            storage.kv.put("foo", 1)
            with world.full_disk(), pytest.raises(StorageFull):
                storage.sql.exec(
                    "CREATE TABLE t (a); INSERT INTO t VALUES " + ",".join(["(zeroblob(2000000))"] * 4)
                )
            with pytest.raises(StorageFull):
                storage.sql.exec("SELECT 1")

        await get_alarm(world)
        with pytest.raises(StorageFull):
            await do(world, work)
        assert await do(world, lambda storage: storage.kv.get("foo")) is None

    in_world(main)
