"""`ctx.buckets`: what may be put where, and what a bucket can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.base.errors import Invalid, NotFound
from penstock.objects import Context, DurableObject

from .world import World, run


class Album(DurableObject[Any]):
    async def look(self) -> None:
        self.env.result = await self.env.work(self.ctx)


def asked(*works: Any) -> Any:
    """What the album gets that does this with its context, one work after the other."""

    async def main(world: World) -> Any:
        album = world.stub(Album)
        for work in works:
            world.env.work = work
            await album.look()
        return world.env.result

    return run(main, Album)


def refused(work: Any, kind: type[Exception] = Invalid) -> str:
    async def caught(ctx: Context) -> Any:
        with pytest.raises(kind) as caught:
            await work(ctx)
        return str(caught.value)

    text: str = asked(caught)
    return text


def made() -> Iterator[bytes]:
    yield b"a"
    yield b"bc"


@pytest.mark.parametrize(
    "content",
    [b"abc", bytearray(b"abc"), memoryview(b"abc"), [b"a", b"bc"], (b"abc",), made(), made, lambda: b"abc"],
    ids=["bytes", "bytearray", "memoryview", "list", "tuple", "generator", "function", "function of bytes"],
)
def test_bytes_an_iterable_of_bytes_or_a_function_that_gives_one_is_put(content: Any) -> None:
    async def put_and_get(ctx: Context) -> tuple[int, bytes]:
        size = await ctx.buckets.put("my-bucket", "a/b.txt", content)
        return size, await ctx.buckets.get("my-bucket", "a/b.txt")

    assert asked(put_and_get) == (3, b"abc")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text", "not str; encode it first: text.encode()"),
        (7, "not int"),
        (["text"], "pieces of bytes, not of str"),
        (lambda: ["text"], "pieces of bytes, not of str"),
        (lambda: "text", "must give an iterable of bytes; it gave str"),
        (lambda: None, "must give an iterable of bytes; it gave NoneType"),
    ],
    ids=["str", "int", "list", "function of str", "function of a str", "function of nothing"],
)
def test_what_is_no_bytes_is_refused_in_words(content: Any, words: str) -> None:
    assert words in refused(lambda ctx: ctx.buckets.put("my-bucket", "a", content))


BAD_BUCKETS = ["Bad Bucket", "..", "", "ab", "a" * 64, "-ab", "a/b", "../objects", 7]
BAD_KEYS = ["../../x", "a//b", "/a", "a/", ".", "", "a\0b", "\ud800", "x" * 256, "a/" * 1500 + "a", 7]


@pytest.mark.parametrize("bucket", BAD_BUCKETS)
@pytest.mark.parametrize("call", ["put", "get", "head", "delete", "list", "read"])
def test_a_bucket_that_cannot_be_is_refused(call: str, bucket: Any) -> None:
    words = "cannot be the name of a bucket: it has 3 to 63 of a-z, 0-9 and '-'"
    assert words in refused(lambda ctx: request(ctx, call, bucket, "key"))


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("call", ["put", "get", "head", "delete", "read"])
def test_a_key_that_cannot_be_is_refused(call: str, key: Any) -> None:
    assert "key" in refused(lambda ctx: request(ctx, call, "my-bucket", key))


async def request(ctx: Context, call: str, bucket: Any, key: Any) -> Any:
    buckets = ctx.buckets
    match call:
        case "put":
            return await buckets.put(bucket, key, b"x")
        case "list":
            return await buckets.list(bucket)
        case "read":
            return [piece async for piece in buckets.read(bucket, key)]
        case _:
            return await getattr(buckets, call)(bucket, key)


@pytest.mark.parametrize("call", ["get", "read"])
def test_what_is_not_there_is_not_found_and_no_path_of_the_server_is_told(call: str) -> None:
    message = refused(lambda ctx: request(ctx, call, "my-bucket", "nope"), NotFound)
    assert message == "There is no 'nope' in the bucket my-bucket."


def test_files_are_listed_by_key_in_pages_and_head_and_delete_know_them() -> None:
    async def fill(ctx: Context) -> None:
        for key in ("a/1", "a/2", "b"):
            await ctx.buckets.put("my-bucket", key, key.encode())

    async def look(ctx: Context) -> Any:
        buckets = ctx.buckets
        head = await buckets.head("my-bucket", "a/1")
        page = await buckets.list("my-bucket", "a/", after="a/1", limit=5)
        await buckets.delete("my-bucket", "a/1")
        await buckets.delete("my-bucket", "a/1")
        gone = await buckets.head("my-bucket", "a/1")
        return head and head.size_bytes, [info.key for info in page], gone

    assert asked(fill, look) == (3, ["a/2"], None)
