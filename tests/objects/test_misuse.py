"""Mistakes of an object's code: they are the object's, not its caller's, and the log has them with a traceback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from penstock.base.errors import Conflict, Invalid, NotFound, ObjectFailed, TooLarge
from penstock.base.request_id import bind_request_id
from penstock.objects import AlarmInfo, Context, DurableObject
from penstock.objects.misuse import is_unmeant

from .world import World, error_of, run

both_sides = pytest.mark.parametrize("slot", [0, 1], ids=["local", "remote"])


class Item(Struct):
    name: str


class Clumsy(DurableObject[Any]):
    async def binding(self) -> None:
        self.ctx.storage.sql.exec("SELECT ?1", object())  # type: ignore[arg-type]

    async def too_big(self) -> None:
        self.ctx.storage.kv.put("k", b"x" * (3 << 20))

    async def no_file(self) -> None:
        await self.ctx.buckets.get("my-bucket", "nope")

    async def no_method(self) -> None:
        await self.other().nope()

    async def wrong_argument(self) -> None:
        await self.other().take(object())

    async def other_argument(self) -> None:
        await self.other().take({"nme": "x"})

    async def unknown_argument(self) -> None:
        await self.other().take(itm=Item("x"))

    async def alarm_time(self) -> None:
        self.ctx.storage.set_alarm("soon")  # type: ignore[arg-type]

    async def nothing(self) -> Item:
        return None  # type: ignore[return-value]

    async def something_else(self) -> Item:
        return [1]  # type: ignore[return-value]

    async def not_to_be_passed(self) -> object:
        return object()

    async def texts(self) -> AsyncIterator[bytes]:
        yield "text"  # type: ignore[misc]

    # -- what is meant

    async def refuse(self) -> None:
        raise Invalid("you should not")

    async def refuse_after_a_mistake(self) -> None:
        try:
            self.ctx.storage.kv.put("", 1)
        except Invalid as error:
            raise NotFound("there is none") from error

    async def pass_on(self) -> None:
        await self.ctx.namespace("Clumsy").get_by_name("b").refuse()

    def other(self) -> Any:
        return self.ctx.namespace("Clumsy").get_by_name("other")

    def take(self, item: Item) -> None:
        pass

    async def alarm(self, info: AlarmInfo) -> None:
        pass


@both_sides
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("binding", "binding failed: Invalid: Binding 1 is of type object"),
        ("too_big", "too_big failed: Invalid: The key 'k' and its value have"),
        ("no_file", "no_file failed: NotFound: There is no 'nope' in the bucket my-bucket."),
        ("no_method", "no_method failed: NoSuchMethod: Clumsy has no method 'nope'"),
        ("wrong_argument", "Clumsy.take: the argument 'item' cannot be passed: "),
        ("other_argument", "other arguments than it is annotated with: the argument 'item': "),
        ("unknown_argument", "Clumsy.take: missing a required argument: 'item'"),
        ("alarm_time", "The alarm's time is an int (ms) or a datetime, not str."),
        ("nothing", "nothing failed: TypeError: it gave None, not a Item. Is a `return` missing?"),
        ("something_else", "something_else failed: TypeError: it gave a value of type list, not a Item"),
        ("not_to_be_passed", "not_to_be_passed failed: TypeError: its result cannot be passed on: "),
    ],
)
def test_what_the_runtime_refuses_the_objects_code_is_its_failure(slot: int, method: str, words: str) -> None:
    async def main(world: World) -> None:
        with capture_logs() as logs:
            error = await error_of(getattr(world.stub_on(slot, Clumsy), method)())
        assert type(error) is ObjectFailed and error.remote and not error.breaks_stub
        assert words in error.message
        [line] = [line for line in logs if line["event"] == "object_method_failed"]
        assert line["log_level"] == "error" and isinstance(line["exc_info"], Exception)
        statistics = {name: counts for name, _, counts in world.hosts[slot].runtime.class_statistics()}
        assert statistics["Clumsy"].failures == 1

    run(main, Clumsy, executors=2)


@both_sides
@pytest.mark.parametrize(
    ("method", "kind"), [("refuse", Invalid), ("refuse_after_a_mistake", NotFound), ("pass_on", Invalid)]
)
def test_what_the_objects_code_raises_itself_is_meant_for_the_caller(
    slot: int, method: str, kind: type[Exception]
) -> None:
    async def main(world: World) -> None:
        with capture_logs() as logs:
            error = await error_of(getattr(world.stub_on(slot, Clumsy), method)())
        assert type(error) is kind and error.remote
        assert not [line for line in logs if line["log_level"] == "error"]

    run(main, Clumsy, executors=2)


@both_sides
def test_a_chunk_that_is_no_bytes_is_named_with_its_method(slot: int) -> None:
    async def main(world: World) -> None:
        async def read() -> None:
            async for _ in await world.stub_on(slot, Clumsy).texts():
                pass

        error = await error_of(read())
        assert ".texts failed: TypeError: a stream's chunks are bytes, not str" in error.message

    run(main, Clumsy, executors=2)


def test_an_error_that_was_never_raised_is_nobodys_mistake() -> None:
    assert not is_unmeant(Invalid("x")) and not is_unmeant(Conflict("x")) and is_unmeant(ValueError("x"))


class Stillborn(DurableObject[Any]):
    def __init__(self, ctx: Context, env: Any) -> None:
        super().__init__(ctx, env)
        if env.kind == "raises":
            raise ValueError("no")
        if env.kind == "misuses":
            ctx.storage.kv.put("", 1)
        if env.kind == "blocks":
            ctx.block_concurrency_while(self.fail)
        if env.kind == "forever":
            ctx.block_concurrency_while(lambda: ctx.clock.sleep_ms(1 << 40))

    async def fail(self) -> None:
        raise KeyError("gone")

    def ping(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "event", "raised", "words"),
    [
        ("raises", "object_not_started", ValueError, "ValueError: no"),
        ("misuses", "object_not_started", Invalid, "Invalid: The key '' has 0 bytes"),
        ("blocks", "block_concurrency_failed", KeyError, "KeyError: 'gone'"),
        (
            "forever",
            "block_concurrency_failed",
            TimeoutError,
            "block_concurrency_while failed: TimeoutError: it was not done after 30 s; the object starts again",
        ),
    ],
)
@both_sides
def test_a_start_that_fails_is_logged_with_its_traceback_and_the_caller_hears_why(
    slot: int, kind: str, event: str, raised: type[Exception], words: str
) -> None:
    async def main(world: World) -> None:
        world.env.kind = kind
        with capture_logs() as logs:
            error = await error_of(world.stub_on(slot, Stillborn).ping())
        assert type(error) is ObjectFailed and words in error.message
        [line] = [line for line in logs if line["log_level"] == "error"]
        assert line["event"] == event and type(line["exc_info"]) is raised
        [counts] = [counts for _, _, counts in world.hosts[slot].runtime.class_statistics()]
        assert counts.failures == 1

    run(main, Stillborn, executors=2)


@both_sides
def test_a_request_id_goes_along_to_the_executor_of_the_object(slot: int) -> None:
    async def main(world: World) -> None:
        with capture_logs(processors=[merge_contextvars]) as logs:
            bind_request_id("r-1")
            await error_of(world.stub_on(slot, Clumsy).binding())
        [line] = [line for line in logs if line["event"] == "object_method_failed"]
        assert line["request_id"] == "r-1"

    run(main, Clumsy, executors=2)


class Careless(DurableObject[Any]):
    """Has no alarm()."""

    def __init__(self, ctx: Context, env: Any) -> None:
        if getattr(env, "kind", "") != "orphan":
            super().__init__(ctx, env)

    async def do(self, what: str) -> None:
        ctx = self.ctx
        match what:
            case "wait_until a function":
                ctx.wait_until(self.work)  # type: ignore[arg-type]
            case "block while a coroutine":
                await ctx.block_concurrency_while(self.work())  # type: ignore[arg-type]
            case "get a text":
                ctx.namespace("Careless").get("0" * 64)  # type: ignore[arg-type]
            case "set_alarm":
                ctx.storage.set_alarm(1)

    async def work(self) -> None:
        pass

    @staticmethod
    def helper(n: int) -> int:
        return n


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("wait_until a function", "ctx.wait_until(self.tell()), not (self.tell)"),
        ("block while a coroutine", "ctx.block_concurrency_while(self.load), not (self.load())"),
        ("get a text", "get takes an ObjectId, not a str; use get_by_name(name)"),
        ("set_alarm", "The class has no alarm(), so no alarm can be set"),
    ],
)
def test_a_call_in_the_wrong_spelling_is_refused_with_the_right_one(what: str, words: str) -> None:
    async def main(world: World) -> None:
        error = await error_of(world.stub(Careless).do(what))
        assert type(error) is ObjectFailed and words in error.message

    run(main, Careless)


def test_a_constructor_that_does_not_call_the_base_class_is_told_to() -> None:
    async def main(world: World) -> None:
        world.env.kind = "orphan"
        error = await error_of(world.stub(Careless).do(""))
        assert "its __init__ must call super().__init__(ctx, env)" in error.message

    run(main, Careless)


def test_a_static_method_is_not_one_that_a_stub_can_call() -> None:
    async def main(world: World) -> None:
        with pytest.raises(Invalid, match="no method 'helper'"):
            await world.stub(Careless).helper(1)

    run(main, Careless)


class Mirror(DurableObject[Any]):
    def give_back(self, value: bytes) -> bytes:
        return value

    def size(self, value: bytes) -> int:
        return len(value)

    def grow(self, size: int) -> bytes:
        return bytes(size)

    async def pass_to(self, name: str, size: int) -> int:
        got: int = await self.ctx.namespace("Mirror").get_by_name(name).size(bytes(size))
        return got


@both_sides
def test_what_a_call_may_carry_is_the_same_wherever_the_object_lives(
    slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.objects.remote.CALL_BYTES_MAX", 1_000)

    async def main(world: World) -> None:
        mirror = world.stub_on(slot, Mirror)
        assert await mirror.give_back(b"x" * 990) == b"x" * 990
        with pytest.raises(TooLarge, match=r"Mirror.size: its arguments have 10\d\d bytes; the limit is 1000."):
            await mirror.size(b"x" * 1_010)
        error = await error_of(mirror.grow(1_010))
        assert type(error) is ObjectFailed and "grow failed: TooLarge: Its result has 1013 bytes" in error.message
        error = await error_of(world.stub_on(0, Mirror).pass_to(mirror.id.name, 1_010))
        assert type(error) is ObjectFailed and "pass_to failed: TooLarge: Mirror.size: " in error.message

    run(main, Mirror, executors=2)
