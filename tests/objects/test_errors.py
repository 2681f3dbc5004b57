"""What an error tells the caller: whether to try again, and whose it is."""

from __future__ import annotations

import pytest

from penstock.base.errors import KINDS, Internal, ObjectFailed
from penstock.http.errors import STATUS, public
from penstock.objects import DurableObject

from .notebook import Notebook
from .test_lifecycle import Moody
from .world import World, error_of, run

both_sides = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])


def test_the_kinds_that_pass_by_themselves_are_retryable() -> None:
    assert {kind for kind, cls in KINDS.items() if cls.retryable} == {"unavailable", "overloaded", "storage_full"}
    assert {kind for kind, cls in KINDS.items() if cls.overloaded} == {"overloaded"}


@both_sides
def test_what_the_object_raised_is_remote(slot: int) -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(slot, Notebook)
        for call in (notebook.add_and_refuse(1), notebook.add_and_fail(2)):
            error = await error_of(call)
            assert error.remote and not error.breaks_stub and not error.retryable
        assert isinstance(error, ObjectFailed) and error.type_name == "ZeroDivisionError"

    run(main, Notebook, executors=2)


@both_sides
def test_what_the_way_to_the_object_raised_is_not(slot: int) -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(slot, Notebook)
        await notebook.ping()
        with world.full_disk():
            error = await error_of(notebook.add(1))
        assert error.kind == "storage_full" and error.retryable and not error.remote
        await world.hosts[slot].runtime.stop()
        error = await error_of(notebook.add(2))
        assert error.kind == "unavailable" and error.retryable and not error.remote

    run(main, Notebook, executors=2)


def test_a_dead_sibling_is_not_the_object() -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(1, Notebook)
        await world.hosts[1].kill()
        error = await error_of(notebook.ping())
        assert error.retryable and error.breaks_stub and not error.remote

    run(main, Notebook, executors=2)


@both_sides
def test_a_constructor_that_fails_is_the_object(slot: int) -> None:
    async def main(world: World) -> None:
        world.env.mood = ValueError("no")
        error = await error_of(world.stub_on(slot, Moody).ping())
        assert isinstance(error, ObjectFailed) and error.remote and error.breaks_stub
        assert error.type_name == "ValueError"

    run(main, Moody, executors=2)


class Middleman(DurableObject[None]):
    async def tell(self, name: str) -> None:
        await self.ctx.namespace("Notebook").get_by_name(name).ping()


@both_sides
def test_what_an_object_passes_on_is_its_own_and_breaks_no_stub_of_it(slot: int) -> None:
    async def main(world: World) -> None:
        middleman = world.stub_on(slot, Middleman)
        notebook = world.stub_on(1 - slot, Notebook)
        await middleman.tell(notebook.id.name)
        await world.hosts[1 - slot].runtime.stop()
        error = await error_of(middleman.tell(notebook.id.name))
        assert error.kind == "unavailable" and error.remote and not error.breaks_stub

    run(main, Middleman, Notebook, executors=2)


def test_no_http_client_sees_what_an_object_raised() -> None:
    failed = ObjectFailed("Cart('7').buy failed: KeyError: 'card 4929 1234'", type_name="KeyError")
    assert type(public(failed, "r-1")) is Internal
    assert public(failed, "r-1").message.endswith("under request id r-1.")
    assert set(STATUS) == set(KINDS)
