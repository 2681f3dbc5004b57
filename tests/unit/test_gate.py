import asyncio

import pytest

from penstock.base.errors import StorageFull
from penstock.objects.gate import InputGate, OutputGate


def test_a_reply_is_held_until_the_writes_before_it_are_durable() -> None:
    async def main() -> None:
        gate = OutputGate()
        first, second = gate.hold(1), gate.hold(2)
        assert first is not None and second is not None
        gate.open_to(1)
        assert first.done()
        assert not second.done()
        gate.open_to(2)
        assert second.done()

    asyncio.run(main())


def test_nothing_is_held_when_everything_is_durable() -> None:
    async def main() -> None:
        gate = OutputGate()
        assert gate.hold(0) is None
        gate.open_to(3)
        assert gate.hold(3) is None

    asyncio.run(main())


def test_a_transaction_that_wrote_nothing_lets_go_what_waited_for_it() -> None:
    async def main() -> None:
        gate = OutputGate()
        gate.open_to(4)
        held = gate.hold(5)
        assert held is not None
        gate.nothing_written(4)
        assert held.done()

    asyncio.run(main())


def test_a_transaction_that_wrote_nothing_still_waits_for_those_before_it() -> None:
    async def main() -> None:
        gate = OutputGate()
        earlier, held = gate.hold(1), gate.hold(2)
        assert earlier is not None and held is not None
        gate.nothing_written(1)
        assert not held.done()
        gate.open_to(1)
        assert held.done()

    asyncio.run(main())


def test_what_is_held_when_the_object_breaks_fails_and_so_does_what_comes_later() -> None:
    async def main() -> None:
        gate = OutputGate()
        held = gate.hold(1)
        assert held is not None
        gate.break_with(StorageFull("full"), 0)
        with pytest.raises(StorageFull):
            await held
        with pytest.raises(StorageFull):
            gate.hold(1)

    asyncio.run(main())


def test_what_was_committed_before_the_object_broke_is_still_let_go_when_it_is_durable() -> None:
    async def main() -> None:
        gate = OutputGate()
        committed, failed = gate.hold(1), gate.hold(2)
        assert committed is not None and failed is not None
        gate.break_with(StorageFull("full"), 1)
        assert not committed.done()
        gate.open_to(1)
        await committed
        with pytest.raises(StorageFull):
            await failed

    asyncio.run(main())


def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    async def main() -> None:
        gate = OutputGate()
        first, second = gate.hold(1), gate.hold(1)
        assert first is not None and second is not None
        first.cancel()
        gate.open_to(1)
        assert second.done() and not second.cancelled()

    asyncio.run(main())


def test_calls_enter_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        gate, entered = InputGate(), []

        async def call(number: int) -> None:
            if not gate.is_open:
                await gate.enter()
            entered.append(number)

        async with asyncio.TaskGroup() as tasks:
            with gate.held_shut():
                for number in range(3):
                    tasks.create_task(call(number))
                await asyncio.sleep(0)
                assert not entered
            # The gate is open, but those that waited have not run yet: a newcomer must not overtake them.
            tasks.create_task(call(3))
        assert entered == [0, 1, 2, 3]
        assert gate.is_open

    asyncio.run(main())


def test_a_gate_that_shuts_again_keeps_those_that_waited() -> None:
    async def main() -> None:
        gate, entered = InputGate(), []

        async def call() -> None:
            await gate.enter()
            entered.append(1)

        async with asyncio.TaskGroup() as tasks:
            with gate.held_shut():
                tasks.create_task(call())
                await asyncio.sleep(0)
            with gate.held_shut():
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert not entered
        assert entered

    asyncio.run(main())
