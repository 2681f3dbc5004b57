"""Fault A3 and its like for migrations: a crash at every step of a start leaves what the next start makes good."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from penstock.apps import Application, Migration
from penstock.apps.catalog import migrate
from penstock.base.errors import PenstockError
from penstock.base.rng import seeded_rng
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.testing.sim.crash import Crashed
from penstock.testing.sim.disk import SimDisk
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import FOLDER, MachineSettings, SimMachine
from penstock.testing.sim.mount import Mount

OWN = {"Registry", "Coordinator", "StreamShard"}
OBJECTS = 3


class Base(DurableObject[Any]):
    def __init__(self, ctx: Context, env: Any) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS kept (text TEXT)")

    def keep(self, text: str, alarm_ms: int) -> None:
        self.sql.exec("INSERT INTO kept VALUES (?1)", text)
        self.ctx.storage.set_alarm(alarm_ms)

    def kept(self) -> list[str]:
        return [text for (text,) in self.sql.exec("SELECT text FROM kept")]

    async def alarm(self, info: AlarmInfo) -> None:
        self.sql.exec("INSERT INTO kept VALUES ('woken')")


class Old(Base):
    pass


class New(Base):
    pass


class Gone(Base):
    pass


BEFORE = Application("app.py", (Old, Gone))
AFTER = Application("app.py", (New,), migrations=(Migration(tag="v2", renamed={"Old": "New"}, deleted=["Gone"]),))
_mounts = count()


def machine(loop: VirtualLoop, application: Application, namespaces: dict[str, str]) -> SimMachine:
    return SimMachine(loop, 1, MachineSettings(application=application, namespaces=namespaces))


def start(machine: SimMachine, application: Application, crash_at: int | None = None) -> dict[str, str]:
    """What the supervisor does before it forks; `Crashed` at the operation of that number."""
    mount = Mount(machine.disk, f"migrations-{next(_mounts)}", machine.locks)
    disk: SimDisk = machine.disk
    left = crash_at

    def before(_number: int, _name: str, _path: str) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if not left:
                mount.die()
                raise Crashed

    disk.before_operation = before
    try:
        namespaces = migrate(mount, FOLDER, application, OWN)
        if mount.alive:
            return namespaces
        raise Crashed
    except PenstockError as error:
        if mount.alive:
            raise
        raise Crashed from error  # a dead process reads what it likes
    finally:
        disk.before_operation = lambda _number, _name, _path: None
        mount.bury()


async def crashed_once(loop: VirtualLoop, step: int, power_cut: bool) -> bool:
    """One life before, one start that crashes at a step, one that does not. False if there is no such step."""
    async with machine(loop, BEFORE, {}) as first:
        first.disk._rng = seeded_rng(step)
        start(first, BEFORE)
        alarm_ms = first.clock.now_ms() + 60_000
        for cls in ("Old", "Gone"):
            for n in range(OBJECTS):
                await first.run(0, lambda node, cls=cls, n=n: keep(node, cls, n, alarm_ms))
        first.kill_all("upgrade")
        first._closed = True
        crashed = False
        try:
            start(first, AFTER, step)
        except Crashed:
            crashed = True
        if power_cut:
            first.disk.power_cut()
        namespaces = start(first, AFTER)
        assert namespaces == {"New": "Old"}
        assert start(first, AFTER) == namespaces
        assert not first.disk.files(f"{FOLDER}/objects/Gone")
        disk, locks = first.disk, first.locks
    second = machine(loop, AFTER, namespaces)
    second.disk, second.locks = disk, locks
    async with second:
        await second.clock.sleep_ms(61_000)
        for n in range(OBJECTS):
            kept = await second.run(1, lambda node, n=n: node.runtime.namespace("New").get_by_name(f"{n}").kept())
            assert kept == [f"Old {n}", "woken"]
    return crashed


async def keep(node: Any, cls: str, n: int, alarm_ms: int) -> None:
    await node.runtime.namespace(cls).get_by_name(f"{n}").keep(f"{cls} {n}", alarm_ms)


@pytest.mark.parametrize("power_cut", [False, True])
def test_A3_a_crash_at_every_step_of_a_migration(power_cut: bool) -> None:
    for step in count(1):
        try:
            crashed = run_virtual(lambda loop, step=step: crashed_once(loop, step, power_cut))
        except BaseException as error:
            error.add_note(f"step {step}")
            raise
        if not crashed:
            assert step > 20, "there are more steps than that"
            return
