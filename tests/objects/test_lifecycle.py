"""An object comes to life with its first call, and goes when it is idle or breaks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from penstock.base.errors import Internal, NotFound, Overloaded, PenstockError, StorageFull, Unavailable
from penstock.base.limits import (
    BLOCK_CONCURRENCY_MS_MAX,
    OBJECT_IDLE_MS_MAX,
    SWEEP_INTERVAL_MS,
    WAIT_UNTIL_MS_MAX,
)
from penstock.objects import Context, DurableObject

from .notebook import Notebook
from .world import Host, World, error_of, key_of, run, start, turns

EVICTED_MS = OBJECT_IDLE_MS_MAX + 2 * SWEEP_INTERVAL_MS


def test_the_constructor_runs_once_per_activation() -> None:
    async def main(world: World) -> None:
        await asyncio.gather(*(world.stub(Notebook).ping() for _ in range(5)))
        await world.stub(Notebook, "b").ping()
        assert world.log == [("constructed", "a"), ("constructed", "b")]
        assert world.host.runtime.statistics.activations == 2

    run(main, Notebook)


class Moody(DurableObject[SimpleNamespace]):
    """Its constructor writes, and raises `env.mood` unless that is None."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS starts (n)")
        ctx.storage.sql.exec("INSERT INTO starts VALUES (1)")
        env.log.append("constructed")
        if env.mood is not None:
            raise env.mood

    def ping(self) -> str:
        return "pong"


@pytest.mark.parametrize(
    ("mood", "kind"),
    [(NotFound("gone", code=3), "not_found"), (KeyError("k"), "object_failed")],
    ids=["ours", "a bug"],
)
def test_who_waits_for_a_constructor_that_fails_gets_its_error_and_the_next_call_tries_again(
    mood: Exception, kind: str
) -> None:
    async def main(world: World) -> None:
        world.env.mood = mood
        moody = world.stub(Moody)
        errors = await asyncio.gather(*(error_of(moody.ping()) for _ in range(3)))
        assert [error.kind for error in errors] == [kind] * 3
        assert world.log == ["constructed"]
        world.env.mood = None
        assert await moody.ping() == "pong"
        assert world.log == ["constructed"] * 2
        assert world.host.runtime.statistics.broken == 1

    run(main, Moody)


def test_an_object_that_cannot_be_opened_says_why_and_opens_when_it_can() -> None:
    async def main(world: World) -> None:
        with world.full_disk():
            assert isinstance(await error_of(world.stub(Notebook).ping()), StorageFull)
        assert await world.stub(Notebook).ping() == "pong"
        assert world.host.runtime.active == 1

    run(main, Notebook)


def test_an_idle_object_is_evicted_and_comes_back_with_its_state() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        await world.elapse(OBJECT_IDLE_MS_MAX - SWEEP_INTERVAL_MS)
        assert world.host.runtime.active == 1
        await world.elapse(3 * SWEEP_INTERVAL_MS)
        assert world.host.runtime.active == 0
        assert await notebook.notes() == [1]
        assert world.log.count(("constructed", "a")) == 2

    run(main, Notebook)


def test_an_eviction_is_not_a_breakage_and_closes_the_database_once() -> None:
    async def main(world: World) -> None:
        closed: list[float] = []
        await world.stub(Notebook).add(1)
        world.host.spy_on_closes(closed)
        await world.elapse(EVICTED_MS)
        statistics = world.host.runtime.statistics
        assert (statistics.evictions, statistics.broken) == (1, 0)
        assert len(closed) == 1

    run(main, Notebook)


def test_a_broken_object_closes_its_database_once() -> None:
    async def main(world: World) -> None:
        closed: list[float] = []
        world.env.mood = NotFound("gone")
        world.host.spy_on_closes(closed)
        await error_of(world.stub(Moody).ping())
        await world.elapse(1_000)
        assert len(closed) == 1

    run(main, Moody)


def test_memory_is_bounded_by_the_objects_in_use() -> None:
    async def main(world: World) -> None:
        for n in range(50):
            await world.stub(Notebook, str(n)).add(n)
        assert world.host.runtime.active == 50
        for _ in range(20):
            await world.elapse(EVICTED_MS // 10)
            await world.stub(Notebook, "7").ping()
        assert world.host.runtime.active == 1

    run(main, Notebook)


def test_an_object_with_a_call_under_way_is_not_evicted() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.ping()
        world.relay.hold()
        reply = start(notebook.add(1))
        await world.elapse(2 * EVICTED_MS)
        assert world.host.runtime.active == 1
        world.relay.release()
        assert await reply == 1

    run(main, Notebook)


def test_a_call_that_arrives_during_the_close_goes_to_the_next_activation() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        await until_closing(world, world.host)
        assert world.host.runtime.active == 1
        assert await notebook.add(2) == 2
        assert await notebook.notes() == [1, 2]
        assert world.log.count(("constructed", "a")) == 2
        assert world.host.runtime.statistics.broken == 0

    run(main, Notebook)


def test_who_is_told_that_the_object_broke_can_call_it_again_at_once() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(1)
        with world.full_disk():
            await error_of(notebook.add(2))
        assert await notebook.add(3) == 3
        assert await notebook.notes() == [1, 3]

    run(main, Notebook)


def test_stopping_closes_what_is_open_and_refuses_new_calls() -> None:
    async def main(world: World) -> None:
        notebook, late = world.stub(Notebook), world.stub(Notebook, "b")
        await notebook.add(1)
        await world.host.runtime.stop()
        assert isinstance(await error_of(notebook.ping()), Unavailable)
        assert isinstance(await error_of(late.ping()), Unavailable)
        assert world.host.fatal == []
        await world.host.kill()
        await world.start()
        assert await world.stub(Notebook).notes() == [1]

    run(main, Notebook)


def test_an_object_that_is_starting_when_the_runtime_stops_is_closed_as_well() -> None:
    async def main(world: World) -> None:
        world.host.offload.delay_ms = (100, 100)
        closed: list[float] = []
        world.host.spy_on_closes(closed)
        call = start(error_of(world.stub(Notebook).ping()))
        await world.elapse(50)
        await world.host.runtime.stop()
        assert isinstance(await call, Unavailable)
        assert len(closed) == 2  # the object's database and the alarm index
        assert world.host.fatal == []

    run(main, Notebook)


# -- more objects than memory ------------------------------------------------------------------------------


def test_when_too_many_objects_are_active_those_go_that_were_idle_longest() -> None:
    async def main(world: World) -> None:
        world.host.runtime.active_max = 4
        for name in "abcd":
            await world.stub(Notebook, name).ping()
            await world.elapse(10)
        await world.stub(Notebook, "a").ping()
        await world.elapse(10)
        world.log.clear()
        await world.stub(Notebook, "e").ping()
        await world.elapse(100)
        assert world.host.runtime.active == 4
        assert world.host.runtime.statistics.evictions == 1
        for name in "acde":
            await world.stub(Notebook, name).ping()
        assert world.log == [("constructed", "e")]
        await world.stub(Notebook, "b").ping()
        assert world.log == [("constructed", "e"), ("constructed", "b")]

    run(main, Notebook)


def test_a_stream_of_objects_never_passes_the_cap() -> None:
    async def main(world: World) -> None:
        world.host.runtime.active_max = 32
        for n in range(300):
            await world.stub(Notebook, str(n)).add(n)
            await world.elapse(5)
            assert world.host.runtime.active <= 32 + 32 // 16
        assert await world.stub(Notebook, "7").notes() == [7]

    run(main, Notebook)


def test_when_no_object_is_idle_one_more_is_refused_until_one_is() -> None:
    async def main(world: World) -> None:
        world.host.runtime.active_max = 3
        for name in "abc":
            await world.stub(Notebook, name).ping()
        world.relay.hold()
        calls = [start(world.stub(Notebook, name).add(1)) for name in "abc"]
        await turns()
        error = await error_of(world.stub(Notebook, "d").ping())
        assert isinstance(error, Overloaded) and error.retry_after_s and not error.remote
        world.relay.release()
        await asyncio.gather(*calls)
        assert await world.stub(Notebook, "d").ping() == "pong"

    run(main, Notebook)


# -- wait_until --------------------------------------------------------------------------------------------


class Busy(DurableObject[SimpleNamespace]):
    def work(self, seconds: int, fails: bool = False) -> str:
        async def work() -> None:
            try:
                await asyncio.sleep(seconds)
                if fails:
                    raise ValueError("in the background")
                self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS done (n)")
                self.env.log.append("worked")
            except asyncio.CancelledError:
                self.env.log.append("cancelled")
                raise

        self.ctx.wait_until(work())
        return "answered"

    def ping(self) -> str:
        return "pong"


def test_work_goes_on_after_the_answer_and_keeps_the_object_in_memory() -> None:
    async def main(world: World) -> None:
        assert await world.stub(Busy).work(300) == "answered"
        assert world.log == []
        await world.elapse(290_000)
        assert world.host.runtime.active == 1
        await world.elapse(20_000)
        assert world.log == ["worked"]
        await world.elapse(EVICTED_MS)
        assert world.host.runtime.active == 0

    run(main, Busy)


def test_work_that_fails_harms_nobody() -> None:
    async def main(world: World) -> None:
        await world.stub(Busy).work(1, True)
        await world.elapse(2_000)
        assert await world.stub(Busy).ping() == "pong"
        await world.elapse(EVICTED_MS)
        assert world.host.runtime.active == 0
        assert world.host.runtime.statistics.broken == 0

    run(main, Busy)


def test_work_that_never_ends_is_given_up() -> None:
    async def main(world: World) -> None:
        await world.stub(Busy).work(1_000_000)
        await world.elapse(WAIT_UNTIL_MS_MAX + EVICTED_MS)
        assert world.log == ["cancelled"]
        assert world.host.runtime.active == 0

    run(main, Busy)


def test_work_ends_with_the_runtime() -> None:
    async def main(world: World) -> None:
        await world.stub(Busy).work(300)
        await world.elapse(100)
        await world.host.runtime.stop()
        await turns()
        assert world.log == ["cancelled"]
        assert world.host.fatal == []

    run(main, Busy)


def test_there_is_a_limit_of_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.objects.activation.WAIT_UNTIL_MAX", 3)

    async def main(world: World) -> None:
        for _ in range(3):
            await world.stub(Busy).work(10)
        assert isinstance(await error_of(world.stub(Busy).work(10)), Overloaded)
        await world.elapse(11_000)
        await world.stub(Busy).work(10)

    run(main, Busy)


# -- block_concurrency_while -------------------------------------------------------------------------------


class Careful(DurableObject[SimpleNamespace]):
    """Does `env.start_up` before anything enters."""

    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        env.log.append("constructed")
        if env.start_up is not None:
            ctx.block_concurrency_while(env.start_up)

    def block(self, seconds: int) -> None:
        async def work() -> None:
            self.env.log.append("work")
            await asyncio.sleep(seconds)
            self.env.log.append("worked")

        self.ctx.block_concurrency_while(work)

    async def block_for(self, seconds: int) -> int:
        async def work() -> int:
            await asyncio.sleep(seconds)
            self.env.log.append("worked")
            return seconds * 2

        doubled = await self.ctx.block_concurrency_while(work)
        self.env.log.append("went on")
        return doubled

    async def block_and_fail(self) -> None:
        try:
            await self.ctx.block_concurrency_while(fails_late)
        except Overloaded:
            self.env.log.append("caught")

    def ping(self) -> str:
        self.env.log.append("ping")
        return "pong"


def test_nothing_enters_while_the_constructor_blocks() -> None:
    async def main(world: World) -> None:
        async def start_up() -> None:
            await asyncio.sleep(20)
            world.log.append("ready")

        world.env.start_up = start_up
        careful = world.stub(Careful)
        assert await asyncio.gather(careful.ping(), careful.ping()) == ["pong", "pong"]
        assert world.log == ["constructed", "ready", "ping", "ping"]

    run(main, Careful)


def test_a_method_can_block_too() -> None:
    async def main(world: World) -> None:
        world.env.start_up = None
        careful = world.stub(Careful)
        await careful.block(5)
        await careful.ping()
        assert world.log == ["constructed", "work", "worked", "ping"]

    run(main, Careful)


def test_a_method_that_blocks_gets_what_the_work_gave_and_nobody_enters_meanwhile() -> None:
    async def main(world: World) -> None:
        world.env.start_up = None
        careful = world.stub(Careful)
        blocking = start(careful.block_for(5))
        await turns()
        assert await careful.ping() == "pong"
        assert await blocking == 10
        assert world.log == ["constructed", "worked", "went on", "ping"]

    run(main, Careful)


def test_a_method_whose_work_fails_ends_with_the_object_and_cannot_catch_it() -> None:
    async def main(world: World) -> None:
        world.env.start_up = None
        careful = world.stub(Careful)
        assert isinstance(await error_of(careful.block_and_fail()), Overloaded)
        assert await careful.ping() == "pong"
        assert world.log.count("constructed") == 2

    run(main, Careful)


async def fails_at_once() -> None:
    raise Overloaded("not now", retry_after_s=9)


async def fails_late() -> None:
    await asyncio.sleep(10)
    raise Overloaded("not now", retry_after_s=9)


@pytest.mark.parametrize("start_up", [fails_at_once, fails_late])
def test_when_what_blocks_fails_who_waits_gets_the_error_and_the_next_call_starts_the_object_again(
    start_up: object,
) -> None:
    async def main(world: World) -> None:
        world.env.start_up = start_up
        careful = world.stub(Careful)
        first, second = await asyncio.gather(error_of(careful.ping()), error_of(careful.ping()))
        assert isinstance(first, Overloaded) and isinstance(second, Overloaded)
        assert world.log == ["constructed"]
        world.env.start_up = None
        assert await careful.ping() == "pong"

    run(main, Careful)


def test_what_blocks_for_too_long_is_given_up() -> None:
    async def main(world: World) -> None:
        async def start_up() -> None:
            await asyncio.sleep(3_600)

        world.env.start_up = start_up
        careful, began_ms = world.stub(Careful), world.clock.elapsed_ms()
        assert isinstance(await error_of(careful.ping()), Internal)
        assert 0 <= world.clock.elapsed_ms() - began_ms - BLOCK_CONCURRENCY_MS_MAX < 1_000
        world.env.start_up = None
        assert await careful.ping() == "pong"

    run(main, Careful)


# -- order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_calls_on_one_stub_arrive_in_order_through_start_up(slot: int) -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(slot, Notebook)
        await asyncio.gather(*await one_each_turn(notebook, 200))
        assert await notebook.notes() == list(range(200))

    run(main, Notebook, executors=2)


@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
@pytest.mark.parametrize("bursts", [1, 2])
def test_calls_on_one_stub_arrive_in_order_through_an_eviction(slot: int, bursts: int) -> None:
    async def main(world: World) -> None:
        notebook, host = world.stub_on(slot, Notebook), world.hosts[slot]
        world.network.delay_ms = (0, 0)
        await notebook.ping()
        closed_at = await until_closing(world, host)
        calls = [start(notebook.add(0)), start(notebook.add(1))]

        def one_in_each_turn(left: int) -> None:
            calls.append(start(notebook.add(len(calls))))
            if left:
                world.loop.call_soon(one_in_each_turn, left - 1)

        # From the very moment in which the object ends, before and after its last step.
        for _ in range(bursts):
            world.loop.call_at(closed_at, one_in_each_turn, 40)
        await world.until(lambda: len(calls) > 40 * bursts)
        await asyncio.gather(*calls)
        assert await notebook.notes() == list(range(len(calls)))

    run(main, Notebook, executors=2)


CLOSING_S = 0.5


async def until_closing(world: World, host: Host) -> float:
    """Wait until an idle object has begun to close its database; gives the time at which it will have."""
    began: list[float] = []
    host.spy_on_closes(began)
    host.offload.delay_ms = (CLOSING_S * 1000, CLOSING_S * 1000)
    while not began:
        await world.elapse(100)
    return began[0] + CLOSING_S


async def one_each_turn(notebook: object, count: int) -> list[asyncio.Future[int]]:
    calls = []
    for n in range(count):
        calls.append(start(notebook.add(n)))  # type: ignore[attr-defined]
        await turns(1)
    return calls


def test_calls_keep_their_order_when_the_object_breaks_among_them() -> None:
    async def main(world: World) -> None:
        notebook = world.stub(Notebook)
        await notebook.add(0)
        world.relay.hold(key_of(notebook))
        failing = start(notebook.add(-1))
        await turns()
        with world.full_disk():
            second = start(notebook.add_much())
            with pytest.raises(PenstockError):
                await second
        calls = await one_each_turn(notebook, 300)
        world.relay.release()
        await asyncio.gather(failing, *calls, return_exceptions=True)
        notes = [note for note in await notebook.notes() if note > 0]
        assert notes == sorted(notes)
        assert len(notes) > 250

    run(main, Notebook)
