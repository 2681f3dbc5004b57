"""Rows F3: pipelines take turns."""

from __future__ import annotations

import asyncio

import pytest

from penstock.base.errors import Overloaded
from penstock.base.limits import REQUESTS_PER_TURN_MAX, TURNS_WINDOW_MS
from penstock.http.inflight import Inflight
from penstock.http.turns import Turns


class Watch:
    def __init__(self) -> None:
        self.elapsed = 0

    def elapsed_ms(self) -> int:
        return self.elapsed

    def now_ms(self) -> int:
        return self.elapsed

    async def sleep_ms(self, ms: float) -> None:
        raise AssertionError("nothing sleeps")


async def served(turns: Turns, pipeline: str, order: list[str]) -> None:
    await turns.take(pipeline)
    order.append(pipeline)


def test_f3_a_quiet_pipeline_waits_for_no_more_than_one_turn_of_a_hot_one() -> None:
    async def main() -> list[str]:
        turns, order = Turns(Watch()), []
        await turns.take("quiet")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(1_000):
                tasks.create_task(served(turns, "hot", order))
            tasks.create_task(served(turns, "quiet", order))
        assert turns.waiting == 0
        return order

    order = asyncio.run(main())
    assert len(order) == 1_001
    assert order.index("quiet") <= 2 * REQUESTS_PER_TURN_MAX


def test_who_is_alone_never_waits() -> None:
    async def main() -> None:
        watch = Watch()
        turns = Turns(watch)
        await turns.take("other")
        watch.elapsed += TURNS_WINDOW_MS
        await turns.take("hot")
        watch.elapsed += TURNS_WINDOW_MS
        for _ in range(100):
            alone = turns.take("hot")
            with pytest.raises(StopIteration):
                alone.send(None)

    asyncio.run(main())


def test_a_client_that_went_away_takes_no_turn() -> None:
    async def main() -> list[str]:
        turns, order = Turns(Watch()), []
        await turns.take("quiet")
        tasks = [asyncio.create_task(served(turns, "hot", order)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[20:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.waiting == 0
        return order

    assert len(asyncio.run(main())) <= 20 + REQUESTS_PER_TURN_MAX


def test_f3_a_hot_pipelines_bodies_leave_room_for_others() -> None:
    inflight = Inflight(1_000)
    inflight.add("quiet", 10)
    with pytest.raises(Overloaded):
        for _ in range(100):
            inflight.add("hot", 10)
    assert inflight.bytes < 600
    inflight.add("quiet", 200)
    for owner, size in (("quiet", 210), ("hot", inflight.bytes - 210)):
        inflight.remove(owner, size)
    assert inflight.bytes == 0
    inflight.add("alone", 1_000)
    with pytest.raises(Overloaded, match="inflight_bytes_max is 1000"):
        inflight.add("alone", 1)
