"""An alarm of one object does no harm to those of others, nor to the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.base.errors import StorageFull, Unavailable
from penstock.base.limits import ALARM_MS_MAX, ALARM_RETRIES_MAX, ALARMS_RUNNING_MAX
from penstock.objects import AlarmInfo, DurableObject, ObjectId
from penstock.storage.database import Database
from penstock.testing.sim.mount import Mount

from .world import HOUR_MS, SECOND_MS, World, run, start, turns


class Sleeper(DurableObject[SimpleNamespace]):
    """Does what `env.dreams` says for its name."""

    def set(self, at_ms: int = 0) -> None:
        self.ctx.storage.set_alarm(at_ms)

    async def alarm(self, info: AlarmInfo) -> None:
        name = self.ctx.id.name
        self.env.log.append((name, info.retries))
        dream = self.env.dreams.get(name.rstrip("0123456789"))
        if dream is not None:
            await dream()


class SystemSleeper(Sleeper):
    """As one of Penstock's own."""


def sleepers(main: Any, **dreams: Callable[[], Any]) -> None:
    async def live(world: World) -> None:
        world.env.dreams = dreams
        await main(world)

    run(live, Sleeper)


async def for_ever() -> None:
    await asyncio.Event().wait()


def retries_of(world: World, name: str) -> list[int]:
    return [retries for fired, retries in world.log if fired == name]


# -- handlers that do not end ------------------------------------------------------------------------------


def test_handlers_that_do_not_end_hold_up_the_others_for_a_while_only() -> None:
    async def main(world: World) -> None:
        for n in range(ALARMS_RUNNING_MAX):
            await world.stub(Sleeper, f"bad{n}").set()
        await world.elapse(SECOND_MS)
        await world.stub(Sleeper, "good").set()
        await world.elapse(SECOND_MS)
        assert retries_of(world, "good") == []
        await world.elapse(ALARM_MS_MAX)
        assert retries_of(world, "good") == [0]
        failure = world.host.runtime.failures.of("Sleeper", world.stub(Sleeper, "bad0").id.key)
        assert failure is not None and "longer than 15 minutes" in failure.text

    sleepers(main, bad=for_ever)


def test_handlers_that_do_not_end_do_not_hold_up_those_of_penstock() -> None:
    async def main(world: World) -> None:
        world.host.runtime.register(SystemSleeper, world.env, internal=True)
        for n in range(3 * ALARMS_RUNNING_MAX):
            await world.stub(Sleeper, f"bad{n}").set()
        await world.elapse(SECOND_MS)
        await world.stub(SystemSleeper, "good").set()
        await world.elapse(SECOND_MS)
        assert retries_of(world, "good") == [0]

    sleepers(main, bad=for_ever)


# -- handlers that end the process -------------------------------------------------------------------------


def a_killer(worlds: list[World]) -> Callable[[], Any]:
    async def kill() -> None:
        start(worlds[0].host.kill())
        await for_ever()

    return kill


async def live_on(world: World, ms: int) -> None:
    """Let time pass, and start the process again whenever it has ended."""
    until_ms = world.clock.elapsed_ms() + ms
    while world.clock.elapsed_ms() < until_ms:
        if world.host._life.done():
            await turns()
            await world.start()
        await world.elapse(100)


def test_a_handler_that_ends_the_process_is_tried_again_with_patience_and_then_given_up() -> None:
    worlds: list[World] = []

    async def main(world: World) -> None:
        worlds.append(world)
        await world.stub(Sleeper, "poison").set()
        began_ms = world.clock.elapsed_ms()
        while len(world.log) <= ALARM_RETRIES_MAX:
            await live_on(world, 100)
        # Once again at once, as usually it was not the handler; then after 2, 4, ... s.
        assert world.clock.elapsed_ms() - began_ms > (2 + 4 + 8 + 16 + 32) * SECOND_MS
        await live_on(world, HOUR_MS // 10)
        assert retries_of(world, "poison") == list(range(ALARM_RETRIES_MAX + 1))
        assert world.host.runtime.statistics.alarms_given_up == 1
        assert world.host.runtime.alarms.pending == 0
        assert world.host.runtime.failures.of("Sleeper", world.stub(Sleeper, "poison").id.key) is not None

    sleepers(main, poison=a_killer(worlds))


def test_alarms_that_ran_when_another_ended_the_process_are_not_given_up_with_it() -> None:
    worlds: list[World] = []
    done: list[int] = []

    async def takes_long() -> None:
        await worlds[0].elapse(5 * SECOND_MS)
        done.append(1)

    async def main(world: World) -> None:
        worlds.append(world)
        at_ms = world.clock.now_ms() + SECOND_MS
        for n in range(10):
            await world.stub(Sleeper, f"long{n}").set(at_ms)
        await world.stub(Sleeper, "poison").set(at_ms)
        await live_on(world, HOUR_MS // 10)
        assert len(done) == 10
        assert max(len(retries_of(world, f"long{n}")) for n in range(10)) <= 4
        assert retries_of(world, "poison")[-1] == ALARM_RETRIES_MAX

    sleepers(main, poison=a_killer(worlds), long=takes_long)


def test_a_process_that_stops_in_order_counts_no_try() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper, "slow").set()
        for _ in range(3):
            await world.elapse(SECOND_MS)
            await world.host.stop()
            await world.start()
        await world.elapse(SECOND_MS)
        assert retries_of(world, "slow") == [0] * 4

    sleepers(main, slow=for_ever)


def test_what_keeps_an_object_from_waking_counts_no_try() -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper, "good").set(world.clock.now_ms() + 200 * SECOND_MS)
        await world.elapse(150 * SECOND_MS)
        for _ in range(ALARM_RETRIES_MAX + 2):
            with world.full_disk():
                await world.elapse(60 * SECOND_MS)
            await world.elapse(10)
        await world.elapse(10 * SECOND_MS)
        assert retries_of(world, "good") == [0]

    sleepers(main)


class Eager(DurableObject[SimpleNamespace]):
    """Its alarm sets itself again, at the time for which it runs."""

    def set(self) -> None:
        self.ctx.storage.set_alarm(0)

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.log.append(("eager", info.retries))
        self.set()
        await self.ctx.clock.sleep_ms(SECOND_MS)


def test_an_alarm_that_sets_itself_again_is_not_given_up_for_crashes_between_which_it_succeeded() -> None:
    async def main(world: World) -> None:
        await world.stub(Eager).set()
        for _ in range(2 * ALARM_RETRIES_MAX):
            await world.elapse(4_500)
            await world.host.kill()
            await world.start()
        assert set(retries_of(world, "eager")) == {0, 1}

    run(main, Eager)


# -- the index ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("away")])
def test_alarms_that_cannot_fire_cost_the_same_each_however_many_there_are(error: Exception) -> None:
    async def cannot(_id: ObjectId, _lost: int) -> bool:
        raise error

    async def main(world: World) -> None:
        index, rows_by_count = world.host.runtime.alarms, []
        index._fire = cannot
        execute = index._committer.execute
        rows = 0

        def counting(sql: str, parameters: Any = ()) -> Any:
            nonlocal rows
            cursor = execute(sql, parameters)
            if not sql.startswith("SELECT namespace, key, name"):
                return cursor
            found = cursor.fetchall()
            rows += len(found)
            return SimpleNamespace(fetchall=lambda: found)

        index._committer.execute = counting  # type: ignore[method-assign]
        for count in (500, 2_000):
            rows, at_ms = 0, world.clock.now_ms() + SECOND_MS
            for n in range(count):
                index.settle(ObjectId("Sleeper", str(n)), at_ms)
            await world.elapse(1_900)
            rows_by_count.append(rows / count)
        assert rows_by_count[1] < 1.5 * rows_by_count[0]

    sleepers(main)


_FIRST = (
    "CREATE TABLE alarms (namespace TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL,"
    " PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID",
    "CREATE INDEX alarms_by_time ON alarms (at_ms)",
    "INSERT INTO alarms VALUES ('Sleeper', 'good', 0)",
)
_SECOND = (
    "CREATE TABLE alarms (namespace TEXT NOT NULL, key TEXT NOT NULL, name TEXT, at_ms INTEGER NOT NULL,"
    " PRIMARY KEY (namespace, key)) STRICT, WITHOUT ROWID",
    "CREATE INDEX alarms_by_time ON alarms (at_ms)",
    f"INSERT INTO alarms VALUES ('Sleeper', '{ObjectId('Sleeper', 'good').key}', 'good', 0)",
)


@pytest.mark.parametrize("before", [_FIRST, _SECOND], ids=["first", "second"])
def test_an_index_of_an_earlier_version_is_taken_over(before: tuple[str, ...]) -> None:
    async def main(world: World) -> None:
        await world.stub(Sleeper, "good").set(world.clock.now_ms() + SECOND_MS)
        await world.host.kill()
        mount = Mount(world.disk, "earlier", world.locks)
        mount.remove("/data/alarms/0.db")
        mount.remove("/data/alarms/0.db-wal")
        database = Database.open(mount, "/data/alarms/0.db")
        for statement in before:
            database.execute(statement)
        database.close()
        mount.die()
        await world.elapse(SECOND_MS)
        await world.start()
        await world.elapse(SECOND_MS)
        assert retries_of(world, "good") == [0]
        assert world.host.runtime.alarms.pending == 0

    sleepers(main)


def test_an_object_of_an_earlier_version_keeps_its_alarm() -> None:
    async def main(world: World) -> None:
        sleeper = world.stub(Sleeper, "good")
        await sleeper.set(world.clock.now_ms() + SECOND_MS)
        await world.host.kill()
        mount = Mount(world.disk, "earlier", world.locks)
        path = world.host.runtime.path("Sleeper", sleeper.id.key)
        database = Database.open(mount, path)
        database.execute("ALTER TABLE _penstock_alarm DROP COLUMN tries")
        database.close()
        mount.die()
        await world.start()
        await world.elapse(2 * SECOND_MS)
        assert retries_of(world, "good") == [0]

    sleepers(main)
