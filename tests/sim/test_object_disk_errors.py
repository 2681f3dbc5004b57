"""Row B3 of the list of faults, for the storage of objects: each operation of an object's database fails once."""

from __future__ import annotations

import errno
from collections import Counter
from itertools import count
from typing import Any

from penstock.base.limits import OBJECT_IDLE_MS_MAX, Limits
from penstock.objects.identity import ObjectId
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import ConnectionLost, MachineSettings, SimMachine

from .test_object_storage_faults import Client, State, Store, after

#: Small enough for the log to be copied back while the program runs.
WAL_BYTES_MAX = 30_000
#: Where the objects' databases are, as the simulator lays a data directory out.
OBJECTS = "/objects/"


class BadOperation:
    """The `at`-th operation on objects' databases fails with EIO, and it alone."""

    def __init__(self, machine: SimMachine, at: int) -> None:
        #: What failed, once it has.
        self.name = ""
        self.activation: Any = None
        self._machine = machine
        self._left = at
        machine.disk.before_operation = lambda _number, name, path: self._before(name, path)
        machine.disk.before_access = self._before

    @property
    def was_sync(self) -> bool:
        return self.name.startswith("sync")

    def _before(self, name: str, path: str) -> None:
        disk = self._machine.disk
        disk.sync_fails = False
        if OBJECTS not in path:
            return
        self._left -= 1
        if self._left:
            return
        self.name = name
        self.activation = activation_of(self._machine)
        if self.was_sync:
            disk.sync_fails = True
        else:
            raise OSError(errno.EIO, "The simulated disk failed")


def activation_of(machine: SimMachine) -> Any:
    """What is in memory of the object."""
    executor = machine.executor(0)
    return executor and executor.node.runtime.active_object("Store", ObjectId("Store", "a").key)


async def state(machine: SimMachine, client: Client) -> State:
    """As it is seen at last, by a server that somebody has started again if it ended for its disk."""
    for _ in range(9):
        if machine.fenced is not None:
            machine.start_all()
        await machine.ready()
        try:
            return await client.state()
        except ConnectionLost:
            continue
        except Exception as error:
            if not getattr(error, "retryable", False) and machine.fenced is None:
                raise
        await machine.clock.sleep_ms(1_000)
    return await client.state()


async def run_program(machine: SimMachine, at: int) -> str:
    """Gives the name of the operation that failed, empty if there are fewer."""
    client, kept = Client(machine, "a"), list[int]()
    fault = BadOperation(machine, at)
    suffered = False
    for n in range(1, 9):
        failed_before = fault.name
        error = await client.step(n)
        if error is None:
            kept.append(n)
            if fault.was_sync and not failed_before:
                ended = machine.fenced is not None or activation_of(machine) is not fault.activation
                assert ended, f"step {n} was acknowledged by an object whose {fault.name} had failed"
        else:
            # It may also have failed between two steps, and ended the process.
            assert fault.name and not suffered, f"step {n} failed though the disk did not: {error}"
            suffered = True
            seen = await state(machine, client)
            assert seen in (after(kept), after([*kept, n])), f"after {error!r}"
            if seen != after(kept):
                kept.append(n)
            machine.power_cut()
            assert await state(machine, client) == seen
        if n in (3, 6):
            await machine.clock.sleep_ms(2 * OBJECT_IDLE_MS_MAX)  # it leaves memory, and comes back
    machine.no_fault()
    assert await state(machine, client) == after(kept)
    machine.power_cut()
    assert await state(machine, client) == after(kept)
    assert await client.step(9) is None
    return fault.name


def simulate(at: int) -> str:
    async def live(loop: VirtualLoop) -> str:
        limits = Limits(wal_bytes_max=WAL_BYTES_MAX)
        machine = SimMachine(loop, f"B3 {at}", MachineSettings(classes=(Store,), limits=limits))
        async with machine:
            return await run_program(machine, at)

    return run_virtual(live)


def test_B3_an_error_at_the_nth_operation_loses_nothing_that_was_acknowledged_and_acknowledges_nothing_lost() -> (
    None
):
    failed = Counter[str]()
    for at in count(1):
        try:
            name = simulate(at)
        except BaseException as error:
            error.add_note(f"the disk failed at operation {at}")
            raise
        if not name:
            break
        failed[name] += 1
    assert failed.keys() == {"create", "write", "truncate", "sync", "sync_dir", "remove", "read", "close"}, failed
