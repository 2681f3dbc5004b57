"""Virtual time itself."""

import asyncio

import pytest

from penstock.testing.sim.clock import SimClock
from penstock.testing.sim.loop import Deadlock, Livelock, VirtualLoop, run_virtual
from penstock.testing.sim.offload import SimOffload


def test_an_hour_passes_at_once_and_sleepers_wake_in_order() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[int, str]]:
        clock, woken = SimClock(loop), []

        async def sleep(ms: int, name: str) -> None:
            await clock.sleep_ms(ms)
            woken.append((clock.elapsed_ms(), name))

        async with asyncio.TaskGroup() as tasks:
            for ms, name in ((3_600_000, "late"), (5, "early"), (5, "early too")):
                tasks.create_task(sleep(ms, name))
        return woken

    assert run_virtual(main) == [(5, "early"), (5, "early too"), (3_600_000, "late")]


def test_nothing_left_to_happen_is_an_error_that_names_who_waits() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Deadlock, match="task-1"):
        run_virtual(main)


def test_a_task_that_spins_is_an_error() -> None:
    async def main(loop: VirtualLoop) -> None:
        def spin() -> None:
            loop.call_soon(spin)

        spin()
        await loop.create_future()

    with pytest.raises(Livelock):
        run_virtual(main, steps_max=1000)


def test_an_error_in_a_callback_ends_the_run() -> None:
    async def main(loop: VirtualLoop) -> None:
        loop.call_later(1, lambda: 1 // 0)
        await SimClock(loop).sleep_ms(5_000)

    with pytest.raises(ZeroDivisionError):
        run_virtual(main)


def test_the_wall_clock_jumps_and_sleepers_do_not_notice() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, int]:
        clock = SimClock(loop)
        before = clock.now_ms()
        clock.jump_ms(-3_600_000)
        await clock.sleep_ms(10)
        return clock.now_ms() - before, clock.elapsed_ms()

    assert run_virtual(main) == (-3_599_990, 10)


def test_offloaded_work_is_done_later_and_its_errors_are_the_callers() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, int]:
        import random

        offload, clock = SimOffload(loop, random.Random(0), delay_ms=(7.0, 7.0)), SimClock(loop)
        with pytest.raises(ZeroDivisionError):
            await offload.run("bulk", lambda: 1 // 0)
        return await offload.run("sync", lambda: 42), clock.elapsed_ms()

    assert run_virtual(main) == (42, 14)
