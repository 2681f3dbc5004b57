"""Requests with an Idempotency-Key that come again: after crashes, changes of the pipeline, and a day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import json
from tests.sim.steps import Steps

from penstock.base.limits import IDEMPOTENCY_KEY_MS, Limits
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine
from penstock.testing.sim.scenario import BUCKET, read_records

#: A request that was not stored after so many tries never will be.
TRIES_MAX = 100


def settings(shards: int) -> dict[str, Any]:
    return {
        "name": "records",
        "metadata": {"shards": shards},
        "source": [{"type": "http", "format": "json"}],
        "destination": {
            "type": "r2",
            "format": "json",
            "path": {"bucket": BUCKET},
            "compression": {"type": "gzip"},
            "batch": {"max_duration_s": 0.25, "max_rows": 20},
        },
    }


async def create(machine: SimMachine, shards: int) -> str:
    answer = await machine.control(0, "POST", "/pipelines", settings(shards))
    assert answer.status == 200, answer
    pipeline: str = answer.json()["result"]["id"]
    return pipeline


class KeyedRequestsThroughAFault:
    """Each request is sent, to one executor after the other, until it is answered with 200, and then once more.
    Between two attempts the shards of the pipeline may change."""

    def __init__(self, arm: Callable[[SimMachine], None], *, executors: int = 1, changes: bool = False) -> None:
        self._arm = arm
        self._executors = executors
        self._changes = changes
        self._attempts = 0
        self.fired = False
        self.problems: list[str] = []

    def run(self) -> None:
        run_virtual(self._run)

    async def _run(self, loop: VirtualLoop) -> None:
        limits = Limits(disk_reserve_bytes=0)
        machine = SimMachine(loop, "keys", MachineSettings(executors=self._executors, limits=limits))
        async with machine:
            pipeline = await create(machine, 3)
            self._arm(machine)
            for request in range(3):
                await self._send(machine, pipeline, request)
                await self._send(machine, pipeline, request)
                await machine.clock.sleep_ms(60)
            self.fired = not machine.fault_pending
            machine.no_fault()
            machine.start_all()
            await machine.ready()
            for request in range(4):
                await self._send(machine, pipeline, request)
            await machine.clock.sleep_ms(70_000)
            found = read_records(machine.bucket(BUCKET))
            expected = Counter(n for request in range(4) for n in self._numbers(request))
            if found != expected:
                self.problems.append(f"lost {expected - found}, too many {found - expected}")
            self.story = machine.trace.lines()

    def _numbers(self, request: int) -> range:
        return range(request * 10, request * 10 + 5)

    async def _send(self, machine: SimMachine, pipeline: str, request: int) -> None:
        body = json.encode([{"n": n} for n in self._numbers(request)])
        for _ in range(TRIES_MAX):
            self._attempts += 1
            slot = self._attempts % self._executors
            try:
                if self._changes:
                    await machine.control(slot, "PUT", "/pipelines/records", settings(1 + self._attempts % 4))
                answer = await machine.request(
                    slot, "POST", f"/ingest/{pipeline}", body, {"idempotency-key": f"request {request}"}
                )
                if answer.status == 200:
                    assert answer.json()["result"] == {"committed": 5}
                    return
                assert answer.status >= 500, answer
            except ConnectionLost:
                pass
            machine.start_all()
            await machine.clock.sleep_ms(100)
        raise AssertionError("a request was never stored")


#: A run with changes of the pipeline takes four times as long.
_STRIDE = {False: 1, True: 4}


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("how", ["kill_all", "power_cut"])
def test_A2_a_crash_at_every_step_of_keyed_requests_that_are_sent_until_they_are_stored(
    how: str, changes: bool, steps: Steps
) -> None:
    def run(n: int) -> KeyedRequestsThroughAFault:
        return KeyedRequestsThroughAFault(
            lambda machine: machine.crash_at(n, getattr(machine, how)), changes=changes
        )

    assert steps.through(run, stride=_STRIDE[changes]) > 60


@pytest.mark.parametrize("changes", [False, True])
def test_A2_one_of_two_executors_dies_at_every_step_of_keyed_requests(changes: bool, steps: Steps) -> None:
    def run(n: int) -> KeyedRequestsThroughAFault:
        return KeyedRequestsThroughAFault(lambda machine: machine.crash_at(n), executors=2, changes=changes)

    assert steps.through(run, stride=_STRIDE[changes]) > 60


def test_B3_every_sync_fails_once_under_keyed_requests(steps: Steps) -> None:
    def run(n: int) -> KeyedRequestsThroughAFault:
        return KeyedRequestsThroughAFault(lambda machine: machine.fail_sync_at(n))

    assert steps.through(run) > 15


def test_a_key_holds_for_a_day_and_is_forgotten_then() -> None:
    async def main(loop: VirtualLoop) -> None:
        limits = Limits(disk_reserve_bytes=0)
        async with SimMachine(loop, "keys", MachineSettings(executors=1, limits=limits)) as machine:
            pipeline = await create(machine, 3)

            async def send(n: int) -> int:
                body = json.encode([{"n": n}])
                return (
                    await machine.request(0, "POST", f"/ingest/{pipeline}", body, {"idempotency-key": "k"})
                ).status

            assert await send(1) == 200
            await machine.clock.sleep_ms(IDEMPOTENCY_KEY_MS - 60_000)
            machine.power_cut()
            await machine.ready()
            assert await send(1) == 200
            assert await send(2) == 422
            await machine.clock.sleep_ms(120_000)
            # The key is free, also for another body, and whichever shard had the first.
            assert await send(2) == 200
            assert await send(2) == 200
            await machine.clock.sleep_ms(1_000)
            assert read_records(machine.bucket(BUCKET)) == Counter([1, 2])

    run_virtual(main)
