"""Rows B1 and B2 of the list of faults, for the storage of objects: after a power cut there are whole steps, in
order, none missing between, and at least those that were answered; a write that finds no room is refused and leaves
no trace."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from penstock.base.errors import PenstockError, StorageFull
from penstock.base.limits import OBJECT_IDLE_MS_MAX
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.identity import ObjectId
from penstock.server.node import Node
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine

State = tuple[dict[str, Any], list[int], int | None]

#: An alarm that does not fire here.
FAR_MS = 1 << 50
BIG = 60_000


class Store(DurableObject[None]):
    """Each call of `step` changes several things in one step, which the model does too."""

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        self._make_table()

    def _make_table(self) -> None:
        self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, pad BLOB)")

    def step(self, n: int) -> None:
        storage = self.ctx.storage
        if n % 7 == 6:
            storage.delete_all()
            self._make_table()
        elif n % 7 == 5:
            storage.kv.put("big", bytes(BIG + n))
        elif n % 7 == 4:
            storage.kv.delete(f"key {n % 3}")
            storage.sql.exec("DELETE FROM rows WHERE n % 2 = 0")
            storage.delete_alarm()
        elif n % 7 == 3:
            try:
                storage.transaction_sync(self._change_and_fail)
            except ZeroDivisionError:
                storage.set_alarm(FAR_MS + n)
        storage.kv.put({f"key {n % 3}": n, "step": n})
        storage.sql.exec("INSERT INTO rows VALUES (?, zeroblob(?))", n, n * 100)

    def _change_and_fail(self) -> None:
        self.ctx.storage.kv.put("never", 1)
        self.ctx.storage.sql.exec("DELETE FROM rows")
        self.ctx.storage.delete_alarm()
        raise ZeroDivisionError

    def state(self) -> State:
        storage = self.ctx.storage
        entries = {key: len(value) if key == "big" else value for key, value in storage.kv.list()}
        assert storage.sql.exec("PRAGMA quick_check").one() == ("ok",)
        return entries, [n for (n,) in storage.sql.exec("SELECT n FROM rows ORDER BY n")], storage.get_alarm()

    async def alarm(self, info: AlarmInfo) -> None:
        raise AssertionError


def after(steps: list[int]) -> State:
    """The state after these steps."""
    entries: dict[str, Any] = {}
    rows: list[int] = []
    alarm_ms: int | None = None
    for n in steps:
        if n % 7 == 6:
            entries, rows, alarm_ms = {}, [], None
        elif n % 7 == 5:
            entries["big"] = BIG + n
        elif n % 7 == 4:
            rows, alarm_ms = [row for row in rows if row % 2], None
        elif n % 7 == 3:
            alarm_ms = FAR_MS + n
        entries[f"key {n % 3}"] = entries["step"] = n
        rows.append(n)
    return dict(sorted(entries.items())), rows, alarm_ms


class Client:
    def __init__(self, machine: SimMachine, name: str) -> None:
        self._machine = machine
        self._name = name
        self.answered: list[int] = []

    async def _ask(self, method: str, *args: Any) -> Any:
        def ask(node: Node) -> Any:
            return getattr(node.runtime.namespace("Store").get_by_name(self._name), method)(*args)

        return await self._machine.run(0, ask)

    async def step(self, n: int) -> PenstockError | ConnectionLost | None:
        try:
            await self._ask("step", n)
        except (PenstockError, ConnectionLost) as error:
            return error
        self.answered.append(n)
        return None

    async def state(self) -> State:
        entries, rows, alarm_ms = await self._ask("state")
        return dict(sorted(entries.items())), rows, alarm_ms


def simulate(seed: int | str, main: Callable[[SimMachine], Any]) -> Any:
    async def live(loop: VirtualLoop) -> Any:
        machine = SimMachine(loop, seed, MachineSettings(classes=(Store,)))
        async with machine:
            return await main(machine)

    return run_virtual(live)


@pytest.mark.parametrize("seed", range(40))
def test_B1_after_a_power_cut_an_object_has_whole_steps_in_order_and_all_that_were_answered(seed: int) -> None:
    async def main(machine: SimMachine) -> None:
        rng = random.Random(seed)
        client = Client(machine, "a")
        steps: list[int] = []
        for _ in range(3):
            machine.crash_at(rng.randint(1, 120), machine.power_cut)
            while machine.fault_pending and len(steps) < 200:
                steps.append(steps[-1] + 1 if steps else 1)
                if await client.step(steps[-1]) is not None:
                    break
            machine.no_fault()
            await machine.ready()
            state = await client.state()
            kept = state[0].get("step", 0)
            steps = [n for n in steps if n <= kept]
            assert state == after(steps)
            assert not client.answered or client.answered[-1] <= kept
            # What survived the first cut must survive the next, seen as it has been.
            machine.power_cut()
            await machine.ready()
            assert await client.state() == state
            client.answered = steps[:]

    simulate(f"B1 {seed}", main)


def test_B2_an_object_that_is_not_in_memory_is_read_on_a_full_disk() -> None:
    async def main(machine: SimMachine) -> None:
        client = Client(machine, "a")
        for n in range(1, 4):
            assert await client.step(n) is None
        await machine.clock.sleep_ms(OBJECT_IDLE_MS_MAX * 2)
        machine.disk.capacity_bytes = machine.disk.used_bytes
        for _ in range(2):
            assert not await machine.run(0, is_active)
            assert await client.state() == after(client.answered)
            assert isinstance(await client.step(4), StorageFull)
            # It has broken by that, and is read again.
            assert await client.state() == after(client.answered)
            await machine.clock.sleep_ms(OBJECT_IDLE_MS_MAX * 2)
        machine.disk.capacity_bytes = 1 << 40
        assert await client.step(5) is None
        machine.power_cut()
        await machine.ready()
        assert await client.state() == after(client.answered)

    simulate("B2", main)


async def is_active(node: Node) -> bool:
    return node.runtime.active_object("Store", ObjectId("Store", "a").key) is not None


class NoRoom:
    """From the `at`-th write or new file on, `writes` of them find no room."""

    def __init__(self, machine: SimMachine, at: int, writes: int) -> None:
        self.refused = 0
        self._left = at
        self._writes = writes
        machine.disk.before_operation = self._before

    def _before(self, _number: int, name: str, _path: str) -> None:
        if name not in ("write", "create"):
            return
        self._left -= 1
        if self._left <= 0 and self.refused < self._writes:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on the simulated disk")


@pytest.mark.parametrize("writes", [1, 25])
def test_B2_no_room_at_the_nth_write_is_refused_leaves_no_trace_and_passes_without_a_restart(writes: int) -> None:
    async def main(machine: SimMachine, at: int) -> int:
        client, other = Client(machine, "a"), Client(machine, "b")
        assert await client.step(1) is None and await other.step(1) is None
        no_room = NoRoom(machine, at, writes)
        for n in range(2, 16):
            error = await client.step(n)
            assert error is None or isinstance(error, StorageFull), error
            assert await other.state() == after([1])  # whoever is in memory can be read
            await machine.clock.sleep_ms(1_000)
        while no_room.refused and no_room.refused < writes:
            await client.step(16)
        machine.no_fault()
        await machine.clock.sleep_ms(2_000)  # the index of alarms is opened again after a second
        assert await client.step(17) is None, "it does not work again by itself"
        assert await client.state() == after(client.answered)
        machine.power_cut()
        await machine.ready()
        assert await client.state() == after(client.answered)
        assert machine.fenced is None
        return no_room.refused

    for at in count(1):
        try:
            refused = simulate(f"B2 {at}", lambda machine, at=at: main(machine, at))
        except BaseException as error:
            error.add_note(f"no room at write {at}")
            raise
        if not refused:
            assert at > 60, "there are more writes than that"
            return
