"""Whatever an object's code raises is the object's error: it ends neither the task that called it nor the process,
and nobody waits in vain."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from penstock.base.errors import ObjectFailed
from penstock.base.limits import ALARM_RETRIES_MAX
from penstock.objects import AlarmInfo, Context, DurableObject

from .world import HOUR_MS, World, error_of, run, start, turns


class OddError(BaseException):
    pass


async def exits() -> None:
    sys.exit("a bug")


async def interrupts() -> None:
    raise KeyboardInterrupt


async def awaits_what_was_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def cancels() -> None:
    raise asyncio.CancelledError


async def is_odd() -> None:
    raise OddError("odd")


#: What an object's code does, and the name of the error that comes of it.
CASES = {
    "exits": (exits, "SystemExit"),
    "interrupts": (interrupts, "KeyboardInterrupt"),
    "awaits_what_was_cancelled": (awaits_what_was_cancelled, "CancelledError"),
    "cancels": (cancels, "CancelledError"),
    "is_odd": (is_odd, "OddError"),
}


class Rogue(DurableObject[SimpleNamespace]):
    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        if ctx.id.name == "still-born":
            sys.exit("a bug")

    async def go(self, case: str) -> None:
        await CASES[case][0]()

    async def go_late(self, case: str) -> None:
        await self.ctx.clock.sleep_ms(1)
        await CASES[case][0]()

    def go_at_once(self) -> None:
        sys.exit("a bug")

    async def block(self, case: str) -> None:
        await self.ctx.block_concurrency_while(CASES[case][0])

    def go_on(self, case: str) -> None:
        self.ctx.wait_until(CASES[case][0]())

    async def give(self, case: str) -> AsyncIterator[bytes]:
        yield b"x"
        await CASES[case][0]()

    async def take(self, chunks: AsyncIterator[bytes]) -> int:
        return len([chunk async for chunk in chunks])

    async def send(self, case: str, other: str) -> int:
        taken: int = await self.ctx.namespace("Rogue").get_by_name(other).take(self.give(case))
        return taken

    def set(self, case: str) -> None:
        self.ctx.storage.kv.put("case", case)
        self.ctx.storage.set_alarm(0)

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.log.append(info.retries)
        await CASES[self.ctx.storage.kv.get("case")][0]()

    def ping(self) -> str:
        return "pong"


cases = pytest.mark.parametrize("case", CASES)
slots = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])


@slots
@cases
@pytest.mark.parametrize("method", ["go", "go_late", "block"])
def test_the_caller_gets_it_at_once_as_an_error_of_the_object(method: str, case: str, slot: int) -> None:
    async def main(world: World) -> None:
        rogue = world.stub_on(slot, Rogue)
        call = start(getattr(rogue, method)(case))
        await world.elapse(1_000)
        assert call.done()
        error = await error_of(call)
        assert isinstance(error, ObjectFailed) and error.type_name == CASES[case][1]
        assert await rogue.ping() == "pong"

    run(main, Rogue, executors=2)


def test_a_plain_method_that_exits_fails() -> None:
    async def main(world: World) -> None:
        error = await error_of(world.stub(Rogue).go_at_once())
        assert isinstance(error, ObjectFailed) and error.type_name == "SystemExit"
        assert world.host.runtime.statistics.broken == 0

    run(main, Rogue)


def test_an_object_whose_constructor_exits_does_not_start() -> None:
    async def main(world: World) -> None:
        error = await error_of(world.stub(Rogue, "still-born").ping())
        assert isinstance(error, ObjectFailed) and error.type_name == "SystemExit"

    run(main, Rogue)


@cases
def test_work_in_the_background_that_fails_so_is_over(case: str) -> None:
    async def main(world: World) -> None:
        await world.stub(Rogue).go_on(case)
        await world.elapse(100_000)
        assert world.host.runtime.active == 0

    run(main, Rogue)


@slots
@cases
def test_a_stream_that_fails_so_ends_with_an_error(case: str, slot: int) -> None:
    async def main(world: World) -> None:
        chunks = await world.stub_on(slot, Rogue).give(case)
        assert await chunks.__anext__() == b"x"
        error = await error_of(chunks.__anext__())
        assert isinstance(error, ObjectFailed) and error.type_name == CASES[case][1]

    run(main, Rogue, executors=2)


@slots
@cases
def test_a_stream_that_an_object_passes_on_and_that_fails_so_ends_with_an_error(case: str, slot: int) -> None:
    async def main(world: World) -> None:
        other = world.stub_on(slot, Rogue, "other").id.name
        error = await error_of(world.stub_on(0, Rogue).send(case, other))
        assert isinstance(error, ObjectFailed) and error.type_name == CASES[case][1]

    run(main, Rogue, executors=2)


@cases
def test_an_alarm_that_fails_so_is_tried_again_and_then_given_up(case: str) -> None:
    async def main(world: World) -> None:
        await world.stub(Rogue).set(case)
        await world.elapse(HOUR_MS)
        assert world.log == list(range(ALARM_RETRIES_MAX + 1))
        assert world.host.runtime.statistics.alarms_given_up == 1
        assert world.host.runtime.failures.of("Rogue", world.stub(Rogue).id.key) is not None

    run(main, Rogue)


def test_a_caller_that_is_cancelled_is_told_so_and_nobody_else() -> None:
    async def main(world: World) -> None:
        rogue = world.stub(Rogue)
        gone, stays = (start(rogue.take(_endless(world))) for _ in range(2))
        await turns()
        gone.cancel()
        await turns()
        assert gone.cancelled() and not stays.done()
        stays.cancel()
        await turns()
        assert world.host.runtime.failures.of("Rogue", rogue.id.key) is None

    run(main, Rogue)


async def _endless(world: World) -> AsyncIterator[bytes]:
    while True:
        await world.elapse(1_000)
        yield b"x"
