"""Who waits at the input gate keeps the place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.base.errors import Overloaded
from penstock.objects import DurableObject, activation
from penstock.objects.gate import InputGate

from .world import World, error_of, run, start, turns


def test_nobody_loses_the_place_when_the_gate_shuts_again_at_once() -> None:
    async def main() -> None:
        gate, entered = InputGate(), []
        loop = asyncio.get_running_loop()

        async def call(name: str) -> None:
            if not gate.is_open:
                await gate.enter()
            entered.append(name)
            if name == "first":
                gate.shut()

        gate.shut()
        calls = [start(call("first"))]
        await turns()
        loop.call_soon(gate.unshut)
        loop.call_soon(lambda: calls.append(start(call("third"))))  # runs before the second has its turn
        calls.append(start(call("second")))
        await turns()
        assert entered == ["first"]
        gate.unshut()
        await asyncio.gather(*calls)
        assert entered == ["first", "second", "third"]
        assert gate.is_open

    asyncio.run(main())


def test_who_gives_up_waiting_leaves_no_trace() -> None:
    async def main() -> None:
        gate = InputGate()
        gate.shut()
        waiting = start(gate.enter())
        await turns()
        assert gate.waiting == 1
        waiting.cancel()
        await turns()
        assert gate.waiting == 0
        gate.unshut()
        assert gate.is_open

    asyncio.run(main())


class Door(DurableObject[Any]):
    async def shut(self) -> None:
        await self.ctx.block_concurrency_while(lambda: self.ctx.clock.sleep_ms(1_000))

    def enter(self) -> str:
        return "in"


def test_when_too_many_calls_wait_at_an_object_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "CALLS_WAITING_MAX", 3)

    async def main(world: World) -> None:
        door = world.stub(Door)
        await door.enter()
        start(door.shut())
        await turns()
        waiting = [start(door.enter()) for _ in range(3)]
        await turns()
        error = await error_of(door.enter())
        assert isinstance(error, Overloaded) and error.retry_after_s == 1 and not error.breaks_stub
        assert await asyncio.gather(*waiting) == ["in"] * 3
        assert await door.enter() == "in"

    run(main, Door)
