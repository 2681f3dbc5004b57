"""An object is one of a class, under a name or an id of its own, and knows both."""

from __future__ import annotations

from types import SimpleNamespace

import apsw
import pytest

from penstock.base.errors import Invalid, ObjectFailed
from penstock.base.limits import OBJECT_NAME_BYTES_MAX
from penstock.objects import AlarmInfo, DurableObject, ObjectId
from penstock.objects.alarm_table import rehome
from penstock.objects.storage import system_storage
from penstock.testing.sim.mount import Mount

from .notebook import Notebook
from .test_lifecycle import EVICTED_MS
from .world import World, error_of, run


class Self(DurableObject[SimpleNamespace]):
    def who(self) -> list[str | None]:
        return [str(self.ctx.id), self.ctx.id.name]

    def name(self) -> str:
        return self.ctx.name

    def meta(self) -> dict[str, object]:
        """As an operator's tool finds it in the database."""
        execute = system_storage(self.ctx.storage).execute
        rows = execute("SELECT key, value FROM _penstock_meta WHERE key <> 'openings'")
        return dict(rows.fetchall())

    def wake_soon(self) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + 1_000)

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.log.append(self.ctx.id.name)


def test_an_id_is_64_hexadecimal_digits_and_leads_to_the_same_object() -> None:
    async def main(world: World) -> None:
        notebooks = world.host.runtime.namespace("Notebook")
        for id in (notebooks.id_from_name("a"), notebooks.new_unique_id()):
            assert len(str(id)) == 64 and int(str(id), 16) >= 0
            await notebooks.get(id).add(1)
            again = notebooks.id_from_string(str(id))
            assert again == id and hash(again) == hash(id)
            assert await notebooks.get(again).notes() == [1]
        assert world.host.runtime.active == 2

    run(main, Notebook, executors=1)


def test_ids_know_their_names_or_have_none() -> None:
    async def main(world: World) -> None:
        notebooks = world.host.runtime.namespace("Notebook")
        named = notebooks.id_from_name("a")
        assert named.name == "a"
        assert notebooks.id_from_string(str(named)).name is None
        assert notebooks.new_unique_id().name is None
        assert notebooks.new_unique_id() != notebooks.new_unique_id()
        assert notebooks.get(named).id is named

    run(main, Notebook)


def test_an_id_of_another_class_is_refused() -> None:
    async def main(world: World) -> None:
        notebooks, selves = (world.host.runtime.namespace(name) for name in ("Notebook", "Self"))
        id = notebooks.new_unique_id()
        with pytest.raises(Invalid, match="Notebook"):
            selves.get(id)
        # The same digits are another object there.
        assert selves.id_from_string(str(id)) != id
        await notebooks.get(id).add(1)
        assert await selves.get(selves.id_from_string(str(id))).who() == [str(id), None]

    run(main, Notebook, Self)


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "g" * 64, "A" * 64, "a" * 64 + "\n", "../" * 21 + "a", 7])
def test_what_is_no_id_is_refused(text: str) -> None:
    async def main(world: World) -> None:
        with pytest.raises(Invalid, match="64"):
            world.host.runtime.namespace("Self").id_from_string(text)

    run(main, Self)


@pytest.mark.parametrize("name", ["", " ", "\0", "/", "../..", "ü𝄞", "a'b\"c", "x" * OBJECT_NAME_BYTES_MAX])
@pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])
def test_any_text_is_a_name_and_arrives_as_it_is(slot: int, name: str) -> None:
    async def main(world: World) -> None:
        stub = world.hosts[slot].stub(Self, name)
        assert await stub.who() == [str(stub.id), name]
        assert await stub.name() == name

    run(main, Self, executors=2)


@pytest.mark.parametrize("name", ["x" * (OBJECT_NAME_BYTES_MAX + 1), "ü" * 513, "\ud800", None, 7, b"bytes"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    async def main(world: World) -> None:
        with pytest.raises(Invalid, match="name"):
            world.host.runtime.namespace("Self").get_by_name(name)

    run(main, Self)


@pytest.mark.parametrize("host", [0, 1])
def test_the_database_says_whose_it_is(host: int) -> None:
    async def main(world: World) -> None:
        selves = world.hosts[host].runtime.namespace("Self")
        named, unique = selves.id_from_name("a"), selves.new_unique_id()
        assert await selves.get(named).meta() == {"namespace": "Self", "id": str(named), "name": "a"}
        assert await selves.get(unique).meta() == {"namespace": "Self", "id": str(unique)}
        error = await error_of(selves.get(unique).name())
        assert isinstance(error, ObjectFailed) and "Objects of Self are reached by their names" in error.message

    run(main, Self, executors=2)


def test_an_object_remembers_the_name_by_which_it_was_reached_once() -> None:
    async def main(world: World) -> None:
        selves = world.host.runtime.namespace("Self")
        nameless = selves.id_from_string(str(selves.id_from_name("a")))
        assert await selves.get(nameless).who() == [str(nameless), None]
        await world.elapse(EVICTED_MS)
        assert await selves.get_by_name("a").who() == [str(nameless), "a"]
        await world.elapse(EVICTED_MS)
        assert await selves.get(nameless).who() == [str(nameless), "a"]

    run(main, Self)


def test_alarms_of_objects_without_a_name_fire_after_a_restart_too() -> None:
    async def main(world: World) -> None:
        selves = world.host.runtime.namespace("Self")
        await selves.get_by_name("a").wake_soon()
        await selves.get(selves.new_unique_id()).wake_soon()
        await selves.get(selves.id_from_string(str(selves.id_from_name("a")))).wake_soon()
        assert world.host.runtime.alarms.pending == 2
        await world.host.kill()
        await world.start()
        await world.elapse(3_000)
        assert sorted(world.log, key=str) == [None, "a"]
        assert world.host.runtime.alarms.pending == 0

    run(main, Self)


def test_the_key_of_a_name_never_changes() -> None:
    assert ObjectId("StreamShard", "p/0").key == "70ce4b61437900b3202daed766d55576d5c741b150366d0a19484ad7ed524598"


@pytest.mark.parametrize("rehomed", [False, True])
def test_an_alarm_index_that_was_kept_by_names_is_made_over(rehomed: bool) -> None:
    async def main(world: World) -> None:
        await world.host.kill()
        mount = Mount(world.disk, "old", world.locks)
        old = apsw.Connection("/data/alarms/0.db", vfs=mount.vfs)
        old.pragma("locking_mode", "exclusive")
        for statement in (
            "DROP TABLE alarms",
            "CREATE TABLE alarms (namespace TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL,"
            " PRIMARY KEY (namespace, name)) STRICT, WITHOUT ROWID",
            "CREATE INDEX alarms_by_time ON alarms (at_ms)",
            "INSERT INTO alarms VALUES ('Self', 'a', 1)",
        ):
            old.execute(statement)
        old.close()
        if rehomed:
            rehome(mount, "/data/alarms", 1)
        mount.die()
        mount.bury()
        await world.start()
        id = world.host.runtime.namespace("Self").id_from_name("a")
        assert world.host.runtime.alarms.indexed_ms(id) == 1
        await world.elapse(2_000)  # the object has no alarm: the entry is noticed and removed
        assert world.host.runtime.alarms.pending == 0

    run(main, Self)
