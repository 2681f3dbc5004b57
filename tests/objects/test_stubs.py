"""A call is the same call wherever the object lives."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from penstock.base.errors import KINDS, Internal, Invalid, ObjectFailed, PenstockError, Unavailable
from penstock.objects import DurableObject, ObjectId, Stub
from penstock.objects.remote import encode_request, result_of

from .notebook import Notebook
from .world import World, error_of, run, start

both_sides = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Echo(DurableObject[SimpleNamespace]):
    def point(self, point: Point) -> Point:
        assert isinstance(point, Point)
        return point

    def keep(self, items: list[Any]) -> list[Any]:
        self.kept = items
        return items

    def kept_items(self) -> list[Any]:
        return self.kept

    async def sum(self, a: int, b: int = 10, *more: int) -> int:
        return a + b + sum(more)

    def text(self, text: str) -> str:
        return text

    def nothing(self) -> None:
        pass

    def fail(self, kind: str) -> None:
        raise KINDS[kind]("Field `x` is over the limit of 3.", code=1234, retry_after_s=7)

    def bug(self) -> None:
        raise ZeroDivisionError("by nought")

    def unserialisable(self) -> Any:
        return object()

    def endless(self) -> Any:
        items: list[Any] = []
        items.append(items)
        return items

    def lies(self) -> int:
        return ["not", "a", "number"]  # type: ignore[return-value]

    def _private(self) -> str:
        return "secret"

    async def alarm(self, info: object) -> None:
        raise AssertionError("nobody can call this")


def echoes(main: Any, slot: int) -> None:
    async def live(world: World) -> None:
        await main(world.stub_on(slot, Echo))

    run(live, Echo, executors=2)


@both_sides
def test_results_arrive_as_their_types(slot: int) -> None:
    async def main(echo: Stub) -> None:
        assert await echo.point(Point(1, 2)) == Point(1, 2)
        assert await echo.keep([1, "a", b"b", None, {"k": [1.5]}]) == [1, "a", b"b", None, {"k": [1.5]}]
        assert await echo.text("ü\0𝄞") == "ü\0𝄞"
        assert await echo.nothing() is None

    echoes(main, slot)


@both_sides
def test_arguments_by_name_and_defaults(slot: int) -> None:
    async def main(echo: Stub) -> None:
        assert await echo.sum(1) == 11
        assert await echo.sum(1, b=2) == 3
        assert await echo.sum(b=5, a=1) == 6
        assert await echo.sum(1, 2, 3, 4) == 10
        for wrong in ({"c": 1}, {"a": 1, "c": 2}, {"b": 1}):
            error = await error_of(echo.sum(**wrong))
            assert isinstance(error, Invalid) and "argument" in error.message

    echoes(main, slot)


@both_sides
def test_too_few_or_too_many_arguments_are_an_error_that_says_so(slot: int) -> None:
    async def main(echo: Stub) -> None:
        for call in (echo.text(), echo.text("a", "b")):
            error = await error_of(call)
            assert isinstance(error, Internal) and "argument" in error.message

    echoes(main, slot)


@both_sides
def test_arguments_and_results_are_copied(slot: int) -> None:
    async def main(echo: Stub) -> None:
        mine = [1, [2]]
        theirs = await echo.keep(mine)
        mine[1].append("changed by the caller")  # type: ignore[union-attr]
        theirs[1].append("changed in the result")
        assert await echo.kept_items() == [1, [2]]
        (await echo.kept_items()).clear()
        assert await echo.kept_items() == [1, [2]]

    echoes(main, slot)


@both_sides
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_errors_arrive_with_kind_message_code_and_waiting_time(slot: int, kind: str) -> None:
    async def main(echo: Stub) -> None:
        error = await error_of(echo.fail(kind))
        assert type(error) is KINDS[kind]
        assert (error.message, error.code, error.retry_after_s) == ("Field `x` is over the limit of 3.", 1234, 7)

    echoes(main, slot)


def test_a_bug_in_a_method_reads_the_same_on_both_sides() -> None:
    errors = []
    for slot in (0, 1):

        async def main(echo: Stub) -> None:
            errors.append(await error_of(echo.bug()))

        echoes(main, slot)
    assert all(type(error) is ObjectFailed and error.type_name == "ZeroDivisionError" for error in errors)
    for error in errors:
        assert "bug failed: ZeroDivisionError: by nought" in error.message


@both_sides
@pytest.mark.parametrize("argument", [object(), {1: object()}, [{1, 2}, lambda: None], 1 << 70])
def test_an_argument_that_cannot_travel_is_an_error_that_says_so(slot: int, argument: object) -> None:
    async def main(echo: Stub) -> None:
        error = await error_of(echo.keep([argument]))
        assert isinstance(error, Invalid)
        assert "Echo.keep: the argument 'items' cannot be passed: " in error.message

    echoes(main, slot)


@both_sides
def test_an_endless_argument_is_an_error(slot: int) -> None:
    async def main(echo: Stub) -> None:
        endless: list[Any] = []
        endless.append(endless)
        assert isinstance(await error_of(echo.keep(endless)), Invalid)

    echoes(main, slot)


@both_sides
@pytest.mark.parametrize("method", ["unserialisable", "endless", "lies"])
def test_a_result_that_cannot_travel_is_an_error_and_harms_nobody_else(slot: int, method: str) -> None:
    async def main(echo: Stub) -> None:
        assert isinstance(await error_of(getattr(echo, method)()), Internal)
        assert await echo.text("still here") == "still here"

    echoes(main, slot)


@both_sides
def test_an_argument_of_the_wrong_type_is_an_error(slot: int) -> None:
    async def main(echo: Stub) -> None:
        for wrong in ({"x": "no number"}, ["a", "list"], {"y": 1}):
            assert isinstance(await error_of(echo.point(wrong)), PenstockError)

    echoes(main, slot)


@both_sides
@pytest.mark.parametrize("name", ["_private", "alarm", "__init__", "ctx", "env", "unheard_of"])
def test_only_public_methods_can_be_reached(slot: int, name: str) -> None:
    async def main(world: World) -> None:
        echo = world.stub_on(slot, Echo)
        if name != "__init__":
            with pytest.raises(Invalid, match=name):
                getattr(echo, name)
        # Nor by somebody who writes requests by hand.
        request = encode_request(echo.id, name, b"\x90")
        with pytest.raises(Invalid, match=name):
            result_of(await world.hosts[slot].runtime.answer(request))

    run(main, Echo, executors=2)


def test_methods_that_could_not_be_called_with_everything_are_refused_at_registration() -> None:
    class Picky(DurableObject[SimpleNamespace]):
        def method(self, a: int, *, b: int = 0) -> int:
            return a + b

    async def main(world: World) -> None:
        with pytest.raises(TypeError, match="keyword-only"):
            world.host.runtime.register(Picky)

    run(main)


class Caller(DurableObject[SimpleNamespace]):
    async def text(self, cls: str) -> Any:
        return await self.ctx.namespace(cls).get_by_name("a").text("found")


class InternalCaller(Caller):
    pass


def test_only_internal_objects_reach_internal_ones() -> None:
    async def main(world: World) -> None:
        runtime = world.host.runtime
        runtime.register(Echo, world.env, internal=True)
        runtime.register(InternalCaller, world.env, internal=True)
        for reached in ("Echo", "InternalCaller"):
            with pytest.raises(ObjectFailed, match=f"There is no class '{reached}'; known are Caller"):
                await runtime.namespace("Caller").get_by_name("c").text(reached)
        assert await runtime.namespace("InternalCaller").get_by_name("c").text("Echo") == "found"
        assert await runtime.namespace("Echo").get_by_name("a").text("found") == "found"

    run(main, Caller)


def test_an_unknown_class_is_named() -> None:
    async def main(world: World) -> None:
        with pytest.raises(Invalid, match="Nothing"):
            world.host.runtime.namespace("Nothing")
        with pytest.raises(Invalid, match="Nothing"):
            result_of(await world.host.runtime.answer(encode_request(ObjectId("Nothing", "a"), "m", b"\x90")))

    run(main, Echo)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x91\xa1a", b"GET / HTTP/1.1"]
)
def test_a_request_that_is_none_is_answered_with_an_error(payload: bytes) -> None:
    async def main(world: World) -> None:
        with pytest.raises(Internal):
            result_of(await world.host.runtime.answer(payload))

    run(main, Echo)


@pytest.mark.parametrize("args", [b"", b"\xc0", b"\xa1a", b"\x91", b"\xdd\x00\x00\x00\x01\x01"])
def test_arguments_that_are_none_are_answered_with_an_error(args: bytes) -> None:
    async def main(world: World) -> None:
        with pytest.raises((Internal, Invalid)):
            result_of(await world.host.runtime.answer(encode_request(ObjectId("Echo", "a"), "text", args)))

    run(main, Echo)


def test_an_executor_refuses_objects_that_are_not_its_own() -> None:
    async def main(world: World) -> None:
        theirs = world.stub_on(1, Notebook).id
        request = encode_request(theirs, "add", b"\x91\x01")
        with pytest.raises(Unavailable):
            result_of(await world.host.runtime.answer(request))
        assert world.log == []

    run(main, Notebook, executors=2)


def test_the_same_name_is_the_same_object_and_classes_are_kept_apart() -> None:
    async def main(world: World) -> None:
        notebooks = world.host.runtime.namespace("Notebook")
        await notebooks.get_by_name("x/../y").add(1)
        assert await notebooks.get(notebooks.id_from_name("x/../y")).notes() == [1]
        assert await notebooks.get_by_name("y").notes() == []
        assert notebooks.id_from_name("x") == ObjectId("Notebook", "x") != ObjectId("Echo", "x")

    run(main, Notebook, Echo)


# -- when the sibling fails --------------------------------------------------------------------------------


def test_a_sibling_that_is_not_there_is_unavailable_and_found_again_when_it_is() -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(1, Notebook)
        await notebook.add(1)
        await world.hosts[1].kill()
        error = await error_of(notebook.add(2))
        assert isinstance(error, Unavailable) and error.retry_after_s
        await world.start(1)
        assert await notebook.notes() == [1]

    run(main, Notebook, executors=2)


def test_a_sibling_that_dies_while_it_is_asked_is_unavailable_at_once() -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(1, Notebook)
        await notebook.add(1)
        world.hosts[1].relay.hold()
        call = start(notebook.add(2))
        await world.elapse(1_000)
        assert not call.done()
        await world.hosts[1].kill()
        assert isinstance(await error_of(call), Unavailable)

    run(main, Notebook, executors=2)


def test_a_remote_caller_that_gives_up_undoes_nothing() -> None:
    async def main(world: World) -> None:
        notebook = world.stub_on(1, Notebook)
        await notebook.ping()
        world.hosts[1].relay.hold()
        call = start(notebook.add(1))
        await world.elapse(100)
        call.cancel()
        world.hosts[1].relay.release()
        assert await notebook.notes() == [1]

    run(main, Notebook, executors=2)


def test_calls_of_several_callers_do_not_mix() -> None:
    async def main(world: World) -> None:
        stubs = [world.stub_on(slot, Echo, name) for slot in (0, 1) for name in "abc"]
        texts = [f"{n}" * 20 for n in range(60)]
        answers = await asyncio.gather(*(stubs[n % 6].text(text) for n, text in enumerate(texts)))
        assert answers == texts

    run(main, Echo, executors=2)


def test_a_stub_has_no_attribute_for_a_method_that_there_is_not() -> None:
    async def main(world: World) -> None:
        stub = world.stub(Notebook)
        assert not hasattr(stub, "nothing") and hasattr(stub, "add")
        with pytest.raises(Invalid, match="has no method 'nothing' that a stub can call"):
            stub.nothing(1)

    run(main, Notebook)
