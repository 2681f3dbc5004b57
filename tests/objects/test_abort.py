"""What breaks an object ends all that is under way in it; the next call starts it anew."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.base.errors import ObjectFailed, PenstockError, Unavailable
from penstock.objects import AlarmInfo, Context, DurableObject, ObjectAborted

from .notebook import Notebook
from .world import World, error_of, run, start, turns

both_sides = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])


class Brittle(DurableObject[SimpleNamespace]):
    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS notes (note)")
        env.log.append("constructed")
        if getattr(env, "abort_in_constructor", False):
            ctx.abort("at birth")

    def ping(self) -> str:
        return "pong"

    def add(self, note: int) -> None:
        self.sql.exec("INSERT INTO notes VALUES (?1)", note)

    def notes(self) -> list[int]:
        return [note for (note,) in self.sql.exec("SELECT note FROM notes ORDER BY note")]

    def add_and_abort(self, note: int) -> None:
        self.add(note)
        self.ctx.abort("it is enough")

    async def add_wait_and_abort(self, note: int) -> None:
        self.add(note)
        await self.ctx.storage.sync()
        self.add(note + 1)
        self.ctx.abort("it is enough")

    async def try_to_catch(self) -> str:
        try:
            self.ctx.abort("it is enough")
        except Exception:
            return "caught"

    async def swallow(self) -> str:
        try:
            self.ctx.abort("it is enough")
        except BaseException:
            await asyncio.sleep(1)
        return "swallowed"

    async def raise_by_hand(self) -> None:
        self.add(1)
        raise ObjectAborted("it is enough")

    async def abort_in_a_group(self) -> None:
        async def fail() -> None:
            self.ctx.abort("it is enough")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(1_000))

    async def sleep(self, seconds: int) -> str:
        try:
            await asyncio.sleep(seconds)
        finally:
            self.env.log.append("woken")
        return "slept"

    async def sleep_elsewhere(self, name: str, seconds: int) -> str:
        slept: str = await self.ctx.namespace("Brittle").get_by_name(name).sleep(seconds)
        return slept

    async def come_back(self, other: str, name: str) -> str:
        """Through another object into this one again."""
        slept: str = await self.ctx.namespace("Brittle").get_by_name(other).sleep_elsewhere(name, 1_000)
        return slept

    async def block_and_abort(self) -> None:
        async def work() -> None:
            await asyncio.sleep(1)
            self.ctx.abort("while blocking")

        await self.ctx.block_concurrency_while(work)

    def abort_later(self) -> None:
        async def work() -> None:
            await asyncio.sleep(1)
            self.ctx.abort("from behind")

        self.ctx.wait_until(work())

    def wake_soon(self, retry: bool) -> None:
        self.env.retry = retry
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + 1_000)

    def alarm_ms(self) -> int | None:
        return self.ctx.storage.get_alarm()

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.log.append(("alarm", info.retries))
        self.add(info.retries)
        if info.retries < 2:
            self.ctx.abort("no alarm please", retry_alarm=self.env.retry)


def brittles(main: Any, slot: int = 0) -> None:
    async def live(world: World) -> None:
        await main(world, world.stub_on(slot, Brittle))

    run(live, Brittle, Notebook, executors=2)


def aborted(error: PenstockError) -> bool:
    return isinstance(error, ObjectFailed) and error.type_name == "ObjectAborted" and error.remote


@both_sides
def test_the_caller_gets_the_reason_and_the_next_call_a_new_object(slot: int) -> None:
    async def main(world: World, brittle: Any) -> None:
        error = await error_of(brittle.add_and_abort(1))
        assert aborted(error) and "it is enough" in error.message and error.breaks_stub
        assert await brittle.notes() == []
        assert world.log == ["constructed"] * 2

    brittles(main, slot)


def test_what_was_durable_stays_and_what_was_not_is_lost() -> None:
    async def main(world: World, brittle: Any) -> None:
        await brittle.add(1)
        assert aborted(await error_of(brittle.add_wait_and_abort(2)))
        assert await brittle.notes() == [1, 2]

    brittles(main)


@pytest.mark.parametrize("method", ["try_to_catch", "swallow", "abort_in_a_group", "raise_by_hand"])
def test_nobody_can_catch_it(method: str) -> None:
    async def main(world: World, brittle: Any) -> None:
        assert aborted(await error_of(getattr(brittle, method)()))
        assert await brittle.ping() == "pong"

    brittles(main)


def test_it_is_no_exception_that_handlers_know() -> None:
    assert not issubclass(ObjectAborted, Exception)


@both_sides
def test_all_that_is_under_way_fails_at_once(slot: int) -> None:
    async def main(world: World, brittle: Any) -> None:
        sleepers = [start(brittle.sleep(3_600)) for _ in range(3)]
        await world.elapse(1_000)
        began_ms = world.clock.elapsed_ms()
        await error_of(brittle.add_and_abort(1))
        for sleeper in sleepers:
            assert aborted(await error_of(sleeper))
        assert world.clock.elapsed_ms() - began_ms < 1_000
        assert world.log == ["constructed", "woken", "woken", "woken"]

    brittles(main, slot)


def test_what_is_held_for_a_write_before_it_goes_on_since_it_has_happened() -> None:
    async def main(world: World, brittle: Any) -> None:
        await brittle.ping()
        world.relay.hold()
        held = start(brittle.add(1))
        await turns()
        failed = start(error_of(brittle.add_and_abort(2)))
        await turns()
        world.relay.release()
        await held
        assert aborted(await failed)
        assert await brittle.notes() == [1]

    brittles(main)


def test_a_call_to_another_object_ends_with_the_caller_and_leaves_the_other_whole() -> None:
    async def main(world: World, brittle: Any) -> None:
        other = world.stub_on(0, Brittle, "other")
        call = start(brittle.sleep_elsewhere(other.id.name, 3_600))
        await world.elapse(1_000)
        await error_of(brittle.add_and_abort(1))
        assert aborted(await error_of(call))
        assert await other.ping() == "pong"
        assert world.log.count("constructed") == 2

    brittles(main)


@both_sides
def test_when_the_other_object_breaks_the_caller_goes_on(slot: int) -> None:
    async def main(world: World, brittle: Any) -> None:
        other = world.stub_on(slot, Brittle, "other")
        call = start(brittle.sleep_elsewhere(other.id.name, 3_600))
        await world.elapse(1_000)
        await error_of(other.add_and_abort(1))
        error = await error_of(call)
        assert aborted(error) and not error.breaks_stub
        assert await brittle.ping() == "pong"
        assert world.log.count("constructed") == 2

    brittles(main)


def test_a_task_that_is_in_the_object_twice_leaves_it_twice() -> None:
    async def main(world: World, brittle: Any) -> None:
        other = world.stub_on(0, Brittle, "other")
        call = start(brittle.come_back(other.id.name, brittle.id.name))
        await world.elapse(1_000)
        await error_of(brittle.add_and_abort(1))
        assert aborted(await error_of(call))
        assert await brittle.ping() == await other.ping() == "pong"

    brittles(main)


def test_a_caller_that_gives_up_in_the_same_moment_is_cancelled() -> None:
    async def main(world: World, brittle: Any) -> None:
        call = start(brittle.sleep(3_600))
        await world.elapse(1_000)
        breaking = start(error_of(brittle.add_and_abort(1)))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert aborted(await breaking)

    brittles(main)


def test_an_abort_in_the_constructor_is_what_the_first_call_gets() -> None:
    async def main(world: World, brittle: Any) -> None:
        world.env.abort_in_constructor = True
        assert aborted(await error_of(brittle.ping()))
        world.env.abort_in_constructor = False
        assert await brittle.ping() == "pong"

    brittles(main)


def test_an_abort_while_blocking_is_what_those_get_who_wait() -> None:
    async def main(world: World, brittle: Any) -> None:
        blocking = start(brittle.block_and_abort())
        await turns()
        waiting = start(error_of(brittle.ping()))
        assert aborted(await error_of(blocking))
        assert aborted(await waiting)
        assert await brittle.ping() == "pong"

    brittles(main)


def test_an_abort_in_the_background_is_one_too() -> None:
    async def main(world: World, brittle: Any) -> None:
        await brittle.abort_later()
        assert aborted(await error_of(brittle.sleep(3_600)))
        assert await brittle.ping() == "pong"

    brittles(main)


def test_an_alarm_that_aborts_has_failed_and_is_tried_again_with_patience() -> None:
    async def main(world: World, brittle: Any) -> None:
        await brittle.wake_soon(True)
        await world.elapse(30_000)
        alarms = [entry for entry in world.log if entry != "constructed"]
        assert alarms == [("alarm", 0), ("alarm", 1), ("alarm", 2)]
        assert await brittle.notes() == [2]
        assert await brittle.alarm_ms() is None
        assert world.hosts[0].runtime.statistics.alarm_failures == 2
        assert world.hosts[0].runtime.aborted_alarms == {}

    brittles(main)


def test_an_alarm_that_aborts_for_good_is_not_tried_again() -> None:
    async def main(world: World, brittle: Any) -> None:
        await brittle.wake_soon(False)
        await world.elapse(60_000)
        assert [entry for entry in world.log if entry != "constructed"] == [("alarm", 0)]
        assert await brittle.alarm_ms() is None
        assert world.hosts[0].runtime.alarms.pending == 0

    brittles(main)


# -- stubs that break -----------------------------------------------------------------------------------------


class Client(DurableObject[SimpleNamespace]):
    """Keeps one stub."""

    def hold(self, name: str) -> None:
        self.stub = self.ctx.namespace("Brittle").get_by_name(name)

    def renew(self) -> None:
        self.stub = self.ctx.namespace("Brittle").get(self.stub.id)

    def stay(self) -> None:
        """Not to be evicted."""

    async def call(self, method: str, args: list[Any]) -> Any:
        return await getattr(self.stub, method)(*args)


@both_sides
def test_a_broken_stub_stays_broken_and_a_new_one_works(slot: int) -> None:
    async def main(world: World) -> None:
        client, brittle = world.stub_on(0, Client), world.stub_on(slot, Brittle)
        await client.hold(brittle.id.name)
        await client.call("add", [1])
        assert aborted(await error_of(client.call("add_and_abort", [2])))
        for _ in range(2):
            error = await error_of(client.call("add", [3]))
            assert aborted(error) and "it is enough" in error.message
        await client.renew()
        await client.call("add", [4])
        assert await brittle.notes() == [1, 4]

    run(main, Brittle, Client, executors=2)


def test_a_stub_of_an_object_whose_executor_died_is_broken() -> None:
    async def main(world: World) -> None:
        client, brittle = world.stub_on(0, Client), world.stub_on(1, Brittle)
        await client.hold(brittle.id.name)
        sleeper = start(client.call("sleep", [20]))
        await world.elapse(100)
        await world.hosts[1].kill()
        assert isinstance(await error_of(sleeper), Unavailable)
        await world.start(1)
        assert isinstance(await error_of(client.call("ping", [])), Unavailable)
        await client.renew()
        assert await client.call("ping", []) == "pong"

    run(main, Brittle, Client, executors=2)


@both_sides
def test_an_error_of_the_object_breaks_no_stub_nor_does_an_eviction(slot: int) -> None:
    async def main(world: World) -> None:
        client, brittle = world.stub_on(0, Client), world.stub_on(slot, Brittle)
        await client.hold(brittle.id.name)
        await error_of(client.call("add", ["too", "many"]))
        assert await client.call("ping", []) == "pong"
        for _ in range(20):
            await world.elapse(5_000)
            await client.stay()
        assert world.hosts[slot].runtime.statistics.evictions == 1
        assert await client.call("ping", []) == "pong"

    run(main, Brittle, Client, executors=2)
