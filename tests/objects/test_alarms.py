"""An alarm fires, whatever happens to the object and the process meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.base.errors import Fenced, Overloaded, PenstockError, StorageFull, Unavailable
from penstock.base.limits import ALARM_RETRIES_MAX, ALARM_RETRY_MAX_MS, OBJECT_IDLE_MS_MAX, SWEEP_INTERVAL_MS
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.alarm_table import rehome
from penstock.objects.placement import owner
from penstock.testing.sim.mount import Mount

from .world import HOUR_MS, SECOND_MS, World, error_of, key_of, run, start, turns

#: How late an alarm may fire here: the simulated disk takes a few milliseconds to open an object.
LATE_MS_MAX = 20


class Sleeper(DurableObject[SimpleNamespace]):
    """Notes when its alarm fires, then does what `env.dream` says: a function of it and the alarm's info."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        env.log.append("constructed")
        if getattr(env, "nightmare", None) == ctx.id.name:
            raise RuntimeError("cannot wake")

    def set(self, at_ms: int) -> None:
        self.ctx.storage.set_alarm(at_ms)

    def set_and_undo(self, at_ms: int) -> None:
        def work() -> None:
            self.set(at_ms)
            raise ZeroDivisionError

        with suppress(ZeroDivisionError):
            self.ctx.storage.transaction_sync(work)

    def get(self) -> int | None:
        return self.ctx.storage.get_alarm()

    def delete(self) -> None:
        self.ctx.storage.delete_alarm()

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.fired.append((self.ctx.id.name, self.ctx.clock.now_ms(), info.retries))
        await self.env.dream(self, info)


async def sound(_sleeper: Sleeper, _info: AlarmInfo) -> None:
    pass


async def bad(_sleeper: Sleeper, _info: AlarmInfo) -> None:
    raise RuntimeError("a bad dream")


def sleepers(main: Any, *, dream: Any = sound, executors: int = 1) -> None:
    async def live(world: World) -> None:
        world.env.fired, world.env.dream = [], dream
        await main(world)

    run(live, Sleeper, executors=executors)


def fired_at(world: World) -> list[int]:
    return [at_ms for _, at_ms, _ in world.env.fired]


def names(world: World) -> list[str]:
    return [name for name, _, _ in world.env.fired]


# -- when --------------------------------------------------------------------------------------------------


def test_an_alarm_fires_once_at_its_time() -> None:
    async def main(world: World) -> None:
        sleeper, at_ms = world.stub(Sleeper), world.clock.now_ms() + 5_000
        await sleeper.set(at_ms)
        assert await sleeper.get() == at_ms
        await world.elapse(60_000)
        [fired_ms] = fired_at(world)
        assert at_ms <= fired_ms <= at_ms + LATE_MS_MAX
        assert await sleeper.get() is None
        assert world.host.runtime.alarms.pending == 0

    sleepers(main)


def test_an_alarm_of_the_past_fires_at_once() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper).set(0)
        await world.elapse(LATE_MS_MAX)
        assert len(world.env.fired) == 1

    sleepers(main)


def test_a_later_alarm_replaces_an_earlier_one_and_the_other_way_round() -> None:
    async def main(world: World) -> None:
        now_ms = world.clock.now_ms()
        later, earlier = world.stub(Sleeper, "later"), world.stub(Sleeper, "earlier")
        await later.set(now_ms + 5_000), await earlier.set(now_ms + 50_000)
        await later.set(now_ms + 20_000), await earlier.set(now_ms + 10_000)
        await world.elapse(100_000)
        assert names(world) == ["earlier", "later"]
        for fired_ms, at_ms in zip(fired_at(world), (now_ms + 10_000, now_ms + 20_000), strict=True):
            assert at_ms <= fired_ms <= at_ms + LATE_MS_MAX

    sleepers(main)


def test_a_deleted_alarm_does_not_fire() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + 5_000)
        await sleeper.delete()
        assert await sleeper.get() is None
        await world.elapse(60_000)
        assert world.env.fired == []
        assert world.host.runtime.alarms.pending == 0

    sleepers(main)


def test_deleting_an_alarm_twice_leaves_nothing_behind() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + 5_000)
        world.relay.hold(key_of(sleeper))
        calls = [start(sleeper.delete())]
        await turns()
        calls.append(start(sleeper.delete()))
        await turns()
        world.relay.release()
        await asyncio.gather(*calls)
        await world.elapse(60_000)
        assert world.env.fired == []
        assert world.host.runtime.alarms.pending == 0

    sleepers(main)


def test_an_alarm_that_was_undone_does_not_fire_and_the_one_before_it_does() -> None:
    async def main(world: World) -> None:
        sleeper, at_ms = world.stub(Sleeper), world.clock.now_ms() + 9_000
        await sleeper.set(at_ms)
        await sleeper.set_and_undo(at_ms - 5_000)
        assert await sleeper.get() == at_ms
        await world.elapse(60_000)
        [fired_ms] = fired_at(world)
        assert at_ms <= fired_ms <= at_ms + LATE_MS_MAX

    sleepers(main)


def test_the_alarm_of_an_evicted_object_wakes_it() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms() + HOUR_MS)
        await world.elapse(OBJECT_IDLE_MS_MAX + 2 * SWEEP_INTERVAL_MS)
        assert world.host.runtime.active == 0
        await world.elapse(HOUR_MS)
        assert len(world.env.fired) == 1
        assert world.log == ["constructed"] * 2

    sleepers(main)


def test_alarms_that_became_due_while_the_process_was_away_fire_when_it_starts() -> None:
    async def main(world: World) -> None:
        for name in "abc":
            await world.stub(Sleeper, name).set(world.clock.now_ms() + 1_000)
        await world.host.kill()
        await world.elapse(HOUR_MS)
        assert world.env.fired == []
        await world.start()
        await world.elapse(LATE_MS_MAX)
        assert sorted(names(world)) == ["a", "b", "c"]

    sleepers(main)


def test_a_runtime_that_stopped_fires_nothing_and_looks_at_nothing_any_more() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + 2_000)
        stopping = start(world.host.runtime.stop())
        await turns()
        assert isinstance(await error_of(sleeper.get()), Unavailable)
        await stopping
        await world.elapse(10_000)
        assert (world.env.fired, world.host.fatal) == ([], [])
        assert world.host.runtime.alarms.pending is None
        await world.host.kill()
        await world.start()
        await world.elapse(LATE_MS_MAX)
        assert names(world) == ["a"]

    sleepers(main)


def test_more_alarms_than_may_run_at_once_all_fire() -> None:
    async def main(world: World) -> None:
        at_ms = world.clock.now_ms() + 1_000
        await asyncio.gather(*(world.stub(Sleeper, str(n)).set(at_ms) for n in range(200)))
        await world.elapse(5_000)
        assert sorted(names(world)) == sorted(map(str, range(200)))

    sleepers(main)


def test_an_object_that_cannot_wake_does_not_hold_up_the_others() -> None:
    async def main(world: World) -> None:
        at_ms = world.clock.now_ms() + 10_500
        await world.stub(Sleeper, "sick").set(world.clock.now_ms() + 100)
        await world.stub(Sleeper, "well").set(at_ms)
        await world.host.stop()
        world.env.nightmare = "sick"
        await world.start()
        await world.elapse(20_000)
        assert names(world) == ["well"]
        [fired_ms] = fired_at(world)
        assert at_ms <= fired_ms <= at_ms + LATE_MS_MAX
        world.env.nightmare = None
        await world.elapse(2_000)
        assert names(world) == ["well", "sick"]

    sleepers(main)


# -- at least once, and again ------------------------------------------------------------------------------


def test_a_handler_that_a_crash_interrupts_runs_again() -> None:
    async def long(_sleeper: Sleeper, _info: AlarmInfo) -> None:
        await asyncio.sleep(30)

    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms() + 1_000)
        await world.elapse(5_000)
        await world.host.kill()
        await world.start()
        await world.elapse(60_000)
        assert [retries for _, _, retries in world.env.fired] == [0, 1]
        assert await world.stub(Sleeper).get() is None

    sleepers(main, dream=long)


def test_a_failing_handler_is_retried_six_times_at_doubling_intervals_and_then_given_up() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + 1_000)
        await world.elapse(30 * 60 * SECOND_MS)
        assert [retries for _, _, retries in world.env.fired] == list(range(ALARM_RETRIES_MAX + 1))
        times = fired_at(world)
        waits = [later - earlier for earlier, later in pairwise(times)]
        for retry, wait_ms in enumerate(waits):
            assert 2_000 << retry <= wait_ms <= (2_000 << retry) * 1.25 + LATE_MS_MAX
        assert await sleeper.get() is None
        statistics = world.host.runtime.statistics
        assert (statistics.alarm_failures, statistics.alarms_given_up) == (7, 1)
        assert world.host.runtime.alarms.pending == 0

    sleepers(main, dream=bad)


def test_an_alarm_that_was_given_up_stays_so_after_a_restart_and_can_be_set_anew() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper).set(0)
        await world.elapse(30 * 60 * SECOND_MS)
        await world.host.kill()
        await world.start()
        sleeper, before = world.stub(Sleeper), len(world.env.fired)
        await world.elapse(10 * 60 * SECOND_MS)
        assert await sleeper.get() is None
        assert len(world.env.fired) == before
        world.env.dream = sound
        await sleeper.set(world.clock.now_ms() + 1_000)
        await world.elapse(5_000)
        assert world.env.fired[before:][0][2] == 0

    sleepers(main, dream=bad)


@pytest.mark.parametrize("error", [Unavailable("away"), Overloaded("busy"), StorageFull("full"), Fenced("no more")])
def test_a_handler_that_fails_for_what_is_not_its_fault_is_retried_until_it_passes(error: PenstockError) -> None:
    """At growing intervals, a minute or a little more at last, and it is never given up."""

    async def away(sleeper: Sleeper, info: AlarmInfo) -> None:
        if len(sleeper.env.fired) <= 20:
            raise type(error)(error.message)
        raise RuntimeError("a bug")

    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms())
        while len(world.env.fired) < 23:
            await world.elapse(SECOND_MS)
        assert [retries for _, _, retries in world.env.fired] == [0] * 21 + [1, 2]
        for n, (earlier, later) in enumerate(pairwise(fired_at(world)[:21])):
            pause_ms = min(2_000 << n, ALARM_RETRY_MAX_MS)
            assert pause_ms <= later - earlier <= pause_ms * 1.25 + LATE_MS_MAX
        assert world.host.runtime.statistics.alarms_given_up == 0

    sleepers(main, dream=away)


def test_retries_survive_a_crash() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms())
        await world.until(lambda: len(world.env.fired) == 3)
        await world.elapse(100)
        await world.host.kill()
        await world.start()
        await world.elapse(60 * SECOND_MS)
        assert [retries for _, _, retries in world.env.fired][:5] == [0, 1, 2, 3, 4]

    sleepers(main, dream=bad)


# -- what the handler sees and sets ------------------------------------------------------------------------


def test_while_the_handler_runs_its_alarm_is_gone() -> None:
    seen: list[int | None] = []

    async def look(sleeper: Sleeper, _info: AlarmInfo) -> None:
        seen.append(sleeper.get())
        await asyncio.sleep(1)
        seen.append(sleeper.get())

    async def main(world: World) -> None:
        await world.stub(Sleeper).set(0)
        await world.elapse(5_000)
        assert seen == [None, None]

    sleepers(main, dream=look)


def test_a_handler_can_set_the_next_alarm() -> None:
    async def again(sleeper: Sleeper, _info: AlarmInfo) -> None:
        sleeper.set(sleeper.ctx.clock.now_ms() + 10_000)

    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms())
        await world.elapse(35_000)
        assert len(world.env.fired) == 4
        assert {retries for _, _, retries in world.env.fired} == {0}

    sleepers(main, dream=again)


def test_an_alarm_that_a_handler_set_and_undid_is_not_set() -> None:
    async def set_and_undo(sleeper: Sleeper, _info: AlarmInfo) -> None:
        sleeper.set_and_undo(sleeper.ctx.clock.now_ms() + 10_000)
        sleeper.env.log.append(sleeper.get())

    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms())
        await world.elapse(60_000)
        assert len(world.env.fired) == 1
        assert world.log[-1] is None
        assert await sleeper.get() is None
        assert world.host.runtime.alarms.pending == 0

    sleepers(main, dream=set_and_undo)


def test_an_alarm_set_by_a_handler_that_then_fails_replaces_the_retries() -> None:
    async def again(sleeper: Sleeper, _info: AlarmInfo) -> None:
        if len(sleeper.env.fired) == 1:
            sleeper.set(sleeper.ctx.clock.now_ms() + 60_000)
            raise RuntimeError("after all")

    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms())
        await world.elapse(100_000)
        first, second = world.env.fired
        assert second[1] - first[1] >= 60_000
        assert second[2] == 0

    sleepers(main, dream=again)


def test_a_call_that_sets_the_alarm_while_the_handler_runs_is_not_lost() -> None:
    async def long(_sleeper: Sleeper, _info: AlarmInfo) -> None:
        await asyncio.sleep(10)

    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms())
        await world.elapse(2_000)
        at_ms = world.clock.now_ms() + 3_000  # due before the handler ends
        await sleeper.set(at_ms)
        await world.elapse(60_000)
        first, second = fired_at(world)
        assert second - first >= 10_000  # never twice at the same time

    sleepers(main, dream=long)


# -- the order of index and commit -------------------------------------------------------------------------


def test_the_index_is_durable_before_an_alarm_that_moves_earlier_is_committed() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + 2 * HOUR_MS)
        world.relay.log.clear()
        await sleeper.set(world.clock.now_ms() + HOUR_MS)
        key = key_of(sleeper)
        assert world.relay.log[:4] == [("ship", "alarms"), ("durable", "alarms"), ("ship", key), ("durable", key)]

    sleepers(main)


def test_an_alarm_that_moves_later_is_durable_before_the_index_is_touched() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.set(world.clock.now_ms() + HOUR_MS)
        await world.elapse(1)
        world.relay.log.clear()
        await sleeper.set(world.clock.now_ms() + 2 * HOUR_MS)
        await world.elapse(1)
        key = key_of(sleeper)
        assert world.relay.log == [("ship", key), ("durable", key), ("ship", "alarms"), ("durable", "alarms")]

    sleepers(main)


def test_while_the_index_waits_the_object_works_and_commits_nothing() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.get()
        before = world.relay.count(key_of(sleeper))
        world.relay.hold("alarms")
        setting = start(sleeper.set(world.clock.now_ms() + 5_000))
        await turns()
        reading = start(sleeper.get())
        await turns()
        assert world.relay.count(key_of(sleeper)) == before
        assert not setting.done() and not reading.done()
        world.relay.release()
        assert await setting is None
        assert await reading == world.clock.now_ms() + 5_000

    sleepers(main)


def test_an_alarm_whose_commit_a_crash_lost_leaves_an_index_entry_that_does_no_harm() -> None:
    async def main(world: World) -> None:
        sleeper, at_ms = world.stub(Sleeper), world.clock.now_ms() + 60_000
        await sleeper.set(at_ms)
        await world.host.runtime.alarms.schedule(sleeper.id, at_ms - 50_000)  # as if the commit had been lost
        await world.elapse(55_000)
        assert world.env.fired == []
        await world.elapse(10_000)
        assert len(fired_at(world)) == 1
        assert fired_at(world)[0] >= at_ms

    sleepers(main)


def test_an_early_entry_is_put_right_although_a_change_of_the_alarm_was_undone() -> None:
    async def main(world: World) -> None:
        sleeper, at_ms = world.stub(Sleeper), world.clock.now_ms() + 60_000
        await sleeper.set(at_ms)
        await world.host.runtime.alarms.schedule(sleeper.id, at_ms - 50_000)
        await sleeper.set_and_undo(at_ms - 10_000)
        await world.elapse(55_000)
        assert world.env.fired == []
        assert world.host.runtime.statistics.alarms_fired <= 1
        await world.elapse(10_000)
        assert len(fired_at(world)) == 1

    sleepers(main)


def test_an_entry_of_an_object_without_an_alarm_goes_away() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper)
        await sleeper.get()
        await world.host.runtime.alarms.schedule(sleeper.id, world.clock.now_ms())
        await world.elapse(1_000)
        assert world.env.fired == []
        assert world.host.runtime.alarms.pending == 0

    sleepers(main)


@pytest.mark.parametrize("held", ["object", "index"])
def test_an_alarm_that_was_acknowledged_survives_a_crash_at_any_moment(held: str) -> None:
    async def main(world: World) -> None:
        sleeper, at_ms = world.stub(Sleeper), world.clock.now_ms() + 5_000
        await sleeper.set(at_ms)
        world.relay.hold("alarms" if held == "index" else key_of(sleeper))
        start(error_of(sleeper.set(at_ms - 2_000)))
        await turns()
        await world.host.kill()
        await world.start()
        await world.elapse(20_000)
        assert len(world.env.fired) == 1
        assert fired_at(world)[0] >= at_ms - 2_000

    sleepers(main)


# -- D1: the wall clock jumps ------------------------------------------------------------------------------


def test_d1_when_the_clock_jumps_forward_what_became_due_fires_within_a_second() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper).set(world.clock.now_ms() + HOUR_MS)
        await world.elapse(10_300)
        world.clock.jump_ms(HOUR_MS)
        await world.elapse(1_000 + LATE_MS_MAX)
        assert len(world.env.fired) == 1

    sleepers(main)


def test_d1_when_the_clock_jumps_back_an_alarm_waits_for_its_time_and_fires_once() -> None:
    async def main(world: World) -> None:
        at_ms = world.clock.now_ms() + 10_000
        await world.stub(Sleeper).set(at_ms)
        await world.elapse(5_000)
        world.clock.jump_ms(-HOUR_MS)
        await world.elapse(HOUR_MS)
        assert world.env.fired == []
        await world.elapse(6_000)
        [fired_ms] = fired_at(world)
        assert at_ms <= fired_ms <= at_ms + LATE_MS_MAX

    sleepers(main)


def test_d1_when_the_clock_jumps_back_what_could_not_wake_is_still_tried_again_soon() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper, "sick").set(world.clock.now_ms() + 1_000)
        await world.host.kill()
        await world.elapse(2 * HOUR_MS)
        world.env.nightmare = "sick"
        await world.start()
        await world.elapse(2_100)
        world.clock.jump_ms(-HOUR_MS)
        world.env.nightmare = None
        await world.elapse(2_000)
        assert names(world) == ["sick"]

    sleepers(main)


# -- the number of executors changes -----------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_rehomed_alarms_fire_where_their_objects_live_now(before: int, after: int) -> None:
    async def main(world: World) -> None:
        at_ms, stubs = world.clock.now_ms() + 5_000, []
        for n in range(12):
            stubs.append(world.stub(Sleeper, str(n)))
            await stubs[-1].set(at_ms)
        for host in world.hosts.values():
            await host.kill()
        world.executors = after
        mount = Mount(world.disk, f"rehome-{before}-{after}", world.locks)
        for _ in range(2):  # a second time changes nothing
            rehome(mount, "/data/alarms", after)
        mount.die()
        world.hosts.clear()
        for slot in range(after):
            host = await world.start(slot)
            assert host.runtime.alarms.pending == sum(owner(key_of(stub), after) == slot for stub in stubs)
        await world.elapse(10_000)
        assert sorted(names(world), key=int) == [str(n) for n in range(12)]

    sleepers(main, executors=before)
