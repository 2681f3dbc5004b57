"""A fault at the n-th operation, for n = 1, 2, 3 … until a run ends without it having happened.

So every step is covered without anybody listing them. Names of tests start with the row of the list of faults.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import json
from tests.sim.steps import Steps

from penstock.base.limits import Limits
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine
from penstock.testing.sim.scenario import BUCKET, Ledger, read_records

Arm = Callable[[SimMachine], None]


def power_cut(machine: SimMachine) -> None:
    machine.power_cut()


def kill_all(machine: SimMachine) -> None:
    machine.kill_all()


def kill_one(machine: SimMachine) -> None:
    """`crash_at` kills the executor whose operation it is anyhow."""


class RecordsThroughAFault:
    """Sends a few requests to one shard, lets their files be delivered and freed, and reads them at the end."""

    def __init__(
        self, arm: Arm, arm_again: Arm | None = None, executors: int = 1, limits: Limits | None = None
    ) -> None:
        self._limits = limits or Limits(disk_reserve_bytes=0)
        self._arm = arm
        self._arm_again = arm_again
        self._executors = executors
        self.fired = False
        self.problems: list[str] = []
        self.acknowledged_while_fenced = 0

    def run(self) -> None:
        run_virtual(self._run)

    async def _run(self, loop: VirtualLoop) -> None:
        machine = SimMachine(loop, "every step", MachineSettings(executors=self._executors, limits=self._limits))
        ledger = Ledger()
        async with machine:
            pipeline = await create_pipeline(machine)
            self._arm(machine)
            for request in range(6):
                await self._send(machine, pipeline, ledger, request)
                await machine.clock.sleep_ms(60)
            await machine.clock.sleep_ms(1_000)
            self.fired = not machine.fault_pending
            if self._arm_again is not None:
                machine.start_all()
                self._arm_again(machine)
                await machine.clock.sleep_ms(1_000)
            machine.no_fault()
            machine.start_all()
            await machine.ready()
            await self._send(machine, pipeline, ledger, 6)
            await machine.clock.sleep_ms(70_000)
            machine.power_cut()
            await machine.ready()
            self.problems = ledger.problems(read_records(machine.bucket(BUCKET)))
            if 70 not in ledger.acknowledged:
                self.problems.append("the server did not serve again")
            self.story = machine.trace.lines()

    async def _send(self, machine: SimMachine, pipeline: str, ledger: Ledger, request: int) -> None:
        numbers = range(request * 10 + 10, request * 10 + 20)
        body = json.encode([{"n": n} for n in numbers])
        try:
            answer = await machine.request(request % self._executors, "POST", f"/ingest/{pipeline}", body)
        except ConnectionLost:
            ledger.unknown.update(numbers)
            return
        if answer.status == 200:
            ledger.acknowledged.update(numbers)
            self.acknowledged_while_fenced += machine.fenced is not None
        elif answer.status < 500:
            ledger.refused.update(numbers)
        else:
            ledger.unknown.update(numbers)


async def create_pipeline(machine: SimMachine) -> str:
    settings = {
        "name": "records",
        "source": [{"type": "http", "format": "json"}],
        "destination": {
            "type": "r2",
            "format": "json",
            "path": {"bucket": BUCKET},
            "compression": {"type": "gzip"},
            "batch": {"max_duration_s": 0.25, "max_rows": 20},
        },
    }
    answer = await machine.control(0, "POST", "/pipelines", settings)
    assert answer.status == 200, answer
    pipeline: str = answer.json()["result"]["id"]
    return pipeline


@pytest.mark.parametrize("how", [kill_all, power_cut])
def test_A2_a_crash_at_every_step_from_request_to_file_to_freed_rows(how: Arm, steps: Steps) -> None:
    def run(n: int) -> RecordsThroughAFault:
        return RecordsThroughAFault(lambda machine: machine.crash_at(n, lambda: how(machine)))

    assert steps.through(run) > 100, "fewer steps than there must be: does it deliver files at all?"


@pytest.mark.parametrize("how", [kill_all, power_cut])
def test_A2_a_crash_at_every_step_while_logs_are_copied_back_and_start_again(how: Arm, steps: Steps) -> None:
    often = Limits(disk_reserve_bytes=0, wal_bytes_max=20_000)

    def run(n: int) -> RecordsThroughAFault:
        return RecordsThroughAFault(lambda machine: machine.crash_at(n, lambda: how(machine)), limits=often)

    assert steps.through(run) > 150, "logs do not start again"


def test_A2_one_of_two_executors_dies_at_every_step(steps: Steps) -> None:
    def run(n: int) -> RecordsThroughAFault:
        return RecordsThroughAFault(lambda machine: machine.crash_at(n), executors=2)

    assert steps.through(run) > 100


@pytest.mark.parametrize("later", [1, 2, 5, 12, 30])
def test_A4_a_second_crash_during_the_recovery_from_the_first(later: int) -> None:
    def again(machine: SimMachine) -> None:
        machine.crash_at(later, machine.power_cut)

    for n in range(1, 150, 7):
        story = RecordsThroughAFault(lambda machine, n=n: machine.crash_at(n, machine.power_cut), again)
        story.run()
        assert not story.problems, "\n".join([f"steps {n} and {later}", *story.problems, *story.story])


def test_B3_every_sync_fails_once_and_nothing_is_acknowledged_until_the_restart(steps: Steps) -> None:
    def run(n: int) -> RecordsThroughAFault:
        return RecordsThroughAFault(lambda machine: machine.fail_sync_at(n))

    assert steps.through(run) > 20


@pytest.mark.parametrize("later", [1, 2, 3, 5, 8, 13, 21, 34])
def test_B3_the_power_fails_while_a_server_recovers_from_a_failed_sync(later: int) -> None:
    """What a failed sync left in the page cache looks as if it were on the disk; recovery must not build on it."""

    def again(machine: SimMachine) -> None:
        machine.crash_at(later, machine.power_cut)

    for n in range(1, 30):
        story = RecordsThroughAFault(lambda machine, n=n: machine.fail_sync_at(n), again)
        story.run()
        assert not story.problems, "\n".join([f"sync {n}, step {later}", *story.problems, *story.story])
        assert not story.acknowledged_while_fenced
