"""Who waits at the input gate keeps the place."""

from __future__ import annotations

import asyncio

from penstock.objects.gate import InputGate

from .world import start, turns


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
        assert gate.is_awaited
        waiting.cancel()
        await turns()
        assert not gate.is_awaited
        gate.unshut()
        assert gate.is_open

    asyncio.run(main())
