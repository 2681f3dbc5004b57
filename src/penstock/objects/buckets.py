"""`ctx.buckets`: whole files under keys, behind the output gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from penstock.base.errors import Invalid
from penstock.storage.bucket_names import check_bucket, check_key
from penstock.storage.connection import S3Connection
from penstock.storage.object_store import Chunks, ObjectInfo, ObjectStore, S3Stores

WaitDurable = Callable[[], Awaitable[None]]
#: What can be put: bytes; an iterable of bytes, which is read at once; or a function that gives one.
Content = bytes | bytearray | memoryview | Iterable[bytes] | Chunks

_BYTES = (bytes, bytearray, memoryview)


class GatedBuckets:
    """Implements `ObjectStore`: buckets behind the output gate. A request starts only when everything that the
    object wrote before is durable, since what is in a bucket can be seen, and so can the names that a request asks
    for.

    These are the folders of this machine; `at` gives others. Each call raises `Invalid` for a bucket or a key that
    cannot be: a bucket has 3 to 63 of a-z, 0-9 and '-', a key no empty part, '.' or '..' between its slashes.
    """

    def __init__(self, buckets: ObjectStore, s3: S3Stores, wait_durable: WaitDurable) -> None:
        self._buckets = buckets
        self._s3 = s3
        self._wait_durable = wait_durable

    def at(self, connection: S3Connection | None) -> GatedBuckets:
        """The buckets of a connection, behind the same gate; without one, these. Raises what `S3Stores.at` does."""
        if connection is None:
            return self
        return GatedBuckets(self._s3.at(connection), self._s3, self._wait_durable)

    async def put(self, bucket: str, key: str, content: Content) -> int:
        """Store `content`, replacing what was under the key, and give its size. Bytes, and an iterable of bytes,
        are taken as they are at the call.

        A function that gives an iterable of bytes, for a file too large for memory, is called later: when the gate
        has opened, in another thread, and again for each new try. The object goes on meanwhile, so it must not look
        at the object's attributes, which may tell of writes that are not durable, but at values that do not change
        or at rows, by `storage.reader()`. Raises what `ObjectStore.put` raises.
        """
        check_bucket(bucket)
        check_key(key)
        chunks = _chunks(content)
        await self._wait_durable()
        return await self._buckets.put(bucket, key, chunks)

    async def get(self, bucket: str, key: str) -> bytes:
        """All bytes of a file. Raises `NotFound`."""
        check_bucket(bucket)
        check_key(key)
        await self._wait_durable()
        return await self._buckets.get(bucket, key)

    async def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        """The bytes of a file in pieces of a few MiB at most. Raises `NotFound`, with the first piece."""
        check_bucket(bucket)
        check_key(key)
        await self._wait_durable()
        async with aclosing(self._buckets.read(bucket, key)) as pieces:
            async for piece in pieces:
                yield piece

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        """A file's key and size, None if there is none."""
        check_bucket(bucket)
        check_key(key)
        await self._wait_durable()
        return await self._buckets.head(bucket, key)

    async def delete(self, bucket: str, key: str) -> None:
        """Remove a file; harmless if there is none."""
        check_bucket(bucket)
        check_key(key)
        await self._wait_durable()
        await self._buckets.delete(bucket, key)

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        """The files whose key starts with `prefix` and comes after `after`, by key, at most `limit`."""
        check_bucket(bucket)
        await self._wait_durable()
        return await self._buckets.list(bucket, prefix, after=after, limit=limit)


def _chunks(content: Any) -> Chunks:
    if isinstance(content, _BYTES):
        return partial(_one, bytes(content))
    if callable(content):
        return partial(_made_by, content)
    if isinstance(content, str) or not isinstance(content, Iterable):
        kind = type(content).__name__
        hint = "; encode it first: text.encode()" if isinstance(content, str) else ""
        raise Invalid(f"put takes bytes, an iterable of bytes, or a function that gives one, not {kind}{hint}.")
    return partial(_same, [_piece(piece) for piece in content])


def _one(content: bytes) -> tuple[bytes]:
    return (content,)


def _same(pieces: list[bytes]) -> list[bytes]:
    return pieces


def _made_by(function: Callable[[], Any]) -> Iterator[bytes]:
    made = function()
    if isinstance(made, _BYTES):
        yield bytes(made)
    elif isinstance(made, str) or not isinstance(made, Iterable):
        raise Invalid(f"The function given to put must give an iterable of bytes; it gave {type(made).__name__}.")
    else:
        for piece in made:
            yield _piece(piece)


def _piece(piece: Any) -> bytes:
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, _BYTES):
        raise Invalid(f"put takes pieces of bytes, not of {type(piece).__name__}.")
    return bytes(piece)
