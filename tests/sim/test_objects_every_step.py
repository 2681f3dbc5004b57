"""Rows A3 and A4 of the list of faults: a crash at every step from a call to its commit, its sync and its reply; of
calls between objects; of an alarm from being set to having fired; and a second crash in the recovery from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.sim.steps import Steps

from penstock.base.errors import PenstockError
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.server.node import Node
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine


class Journal(DurableObject[None]):
    """Writes numbers down, tells a witness of each, and processes them when its alarm fires."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS entries (place INTEGER PRIMARY KEY, n, processed)")

    async def write(self, n: int, alarm_ms: int) -> int:
        """Gives the number of entries, `n` among them."""
        self.sql.exec("INSERT INTO entries (n, processed) VALUES (?, 0)", n)
        places: int = self.sql.exec("SELECT count(*) FROM entries").one()[0]
        # Sometimes earlier, sometimes later than the alarm there is.
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + alarm_ms)
        await self.ctx.namespace("Witness").get_by_name(f"witness-{n % 3}").saw(n)
        return places

    async def alarm(self, info: AlarmInfo) -> None:
        self.sql.exec("UPDATE entries SET processed = processed + 1 WHERE NOT processed")

    def entries(self) -> list[tuple[int, int]]:
        return [(n, processed) for n, processed in self.sql.exec("SELECT n, processed FROM entries ORDER BY place")]


class Witness(DurableObject[None]):
    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS seen (n INTEGER)")

    def saw(self, n: int) -> None:
        self.ctx.storage.sql.exec("INSERT INTO seen VALUES (?)", n)

    def seen(self) -> list[int]:
        return [n for (n,) in self.ctx.storage.sql.exec("SELECT n FROM seen")]


class Run:
    """Numbers are written from both executors through a crash; then all is looked at."""

    def __init__(self, step: int, how: Callable[[SimMachine], None]) -> None:
        self._step = step
        self._how = how
        self._replies: list[tuple[int, int]] = []
        self.fired = False

    async def run(self, loop: VirtualLoop) -> None:
        machine = SimMachine(loop, f"objects {self._step}", MachineSettings(classes=(Journal, Witness)))
        async with machine:
            machine.crash_at(self._step, lambda: self._how(machine))
            for n in range(4):
                await self._write(machine, n)
                await machine.clock.sleep_ms(40)
            self.fired = not machine.fault_pending
            machine.no_fault()
            await machine.ready()
            await machine.clock.sleep_ms(5_000)  # past every alarm
            machine.power_cut()
            await machine.ready()
            journals = [await self._ask(machine, "Journal", f"journal-{i}", "entries") for i in range(2)]
            seen = [n for i in range(3) for n in await self._ask(machine, "Witness", f"witness-{i}", "seen")]
        self._check(journals, seen)

    async def _write(self, machine: SimMachine, n: int) -> None:
        """Two numbers to each journal, the second, from the other executor, with an earlier alarm."""

        async def write(node: Node) -> int:
            journal = node.runtime.namespace("Journal").get_by_name(f"journal-{n // 2}")
            places: int = await journal.write(n, 300 - n % 2 * 200)
            return places

        try:
            places = await machine.run(n % 2, write)
        except (ConnectionLost, PenstockError):
            return
        self._replies.append((n, places))

    async def _ask(self, machine: SimMachine, cls: str, name: str, method: str) -> Any:
        return await machine.run(0, lambda node: getattr(node.runtime.namespace(cls).get_by_name(name), method)())

    def _check(self, journals: list[list[tuple[int, int]]], seen: list[int]) -> None:
        places = {n: place for entries in journals for place, (n, _) in enumerate(entries, start=1)}
        assert len(places) == sum(len(entries) for entries in journals), "a number is there twice"
        for n, place in self._replies:
            assert places.get(n) == place, f"the reply to {n} told of a write that was lost, or moved"
        assert set(seen) <= set(places), "another object saw what was lost"
        assert {n for n, _ in self._replies} <= set(seen)
        assert all(processed for entries in journals for _, processed in entries), "an alarm was lost"


@pytest.mark.parametrize("how", [lambda m: m.power_cut(), lambda m: m.kill_all(), lambda m: None])
def test_A3_a_crash_at_every_step_of_calls_between_objects_and_of_their_alarms(
    how: Callable[[SimMachine], None], steps: Steps
) -> None:
    for step in steps.numbers():
        run = Run(step, how)
        try:
            run_virtual(run.run)
        except BaseException as error:
            error.add_note(f"step {step}")
            raise
        if not run.fired:
            assert step > 60, "there are more steps than that"
            return


@pytest.mark.parametrize("later", [1, 2, 3, 5, 8, 13, 21])
def test_A4_a_second_crash_of_the_objects_during_the_recovery_from_the_first(later: int) -> None:
    def cut_twice(machine: SimMachine) -> None:
        machine.power_cut()
        machine.crash_at(later, machine.power_cut)

    for step in range(1, 90, 4):
        run = Run(step, cut_twice)
        try:
            run_virtual(run.run)
        except BaseException as error:
            error.add_note(f"steps {step} and {later}")
            raise
