"""A file that was delivered, read back from its bucket in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from isal import igzip_lib
from msgspec import Struct

from penstock.base.errors import Corrupt
from penstock.base.limits import DEFLATED_SLICE_BYTES, INFLATED_SLICE_BYTES
from penstock.base.zstandard import zstd
from penstock.pipelines.layout import Compression
from penstock.storage.object_store import ObjectStore
from penstock.storage.offload import Offload


class FileFacts(Struct, frozen=True):
    """What a file turned out to be. `lines` is None if it is not compressed as it should be, saying in `damage` why
    not."""

    size_bytes: int
    sha256: str
    lines: int | None
    damage: str = ""


async def read_facts(
    store: ObjectStore, offload: Offload, bucket: str, key: str, compression: Compression
) -> FileFacts:
    """Read the whole file. Raises what `ObjectStore.read` does."""
    facts = _Facts(compression)
    async with aclosing(store.read(bucket, key)) as pieces:
        async for piece in pieces:
            await offload.run("bulk", partial(facts.add, piece))
    return facts.end()


async def plain_pieces(
    store: ObjectStore, offload: Offload, bucket: str, key: str, compression: Compression
) -> AsyncGenerator[bytes, None]:
    """The file's content, decompressed, in pieces of `INFLATED_SLICE_BYTES` at most. Raises `Corrupt` where it is
    damaged, and what `ObjectStore.read` does."""
    inflater = Inflater(compression)
    async with aclosing(store.read(bucket, key)) as pieces:
        async for piece in pieces:
            inflater.feed(piece)
            while plain := await offload.run("bulk", inflater.next):
                yield plain
    inflater.end()


class _Facts:
    """Blocks."""

    def __init__(self, compression: Compression) -> None:
        self._size_bytes = self._lines = 0
        self._damage = ""
        self._sha256 = hashlib.sha256()
        self._inflater = Inflater(compression)

    def add(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        self._sha256.update(piece)
        if self._damage:
            return
        try:
            self._inflater.feed(piece)
            while plain := self._inflater.next():
                self._lines += plain.count(b"\n")
        except Corrupt as error:
            self._damage = error.message

    def end(self) -> FileFacts:
        try:
            if not self._damage:
                self._inflater.end()
        except Corrupt as error:
            self._damage = error.message
        lines = None if self._damage else self._lines
        return FileFacts(self._size_bytes, self._sha256.hexdigest(), lines, self._damage)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


#: (isal's annotations take the class for an instance.)
_ERRORS: tuple[Any, ...] = (igzip_lib.IsalError, zstd.ZstdError)


def _decompressor(compression: Compression) -> _Decompressor | None:
    if compression == "none":
        return None
    if compression == "zstd":
        return zstd.ZstdDecompressor()
    flag = igzip_lib.DECOMP_GZIP if compression == "gzip" else igzip_lib.DECOMP_ZLIB
    made: _Decompressor = igzip_lib.IgzipDecompressor(flag=flag)
    return made


class Inflater:
    """Takes a file's bytes as they come, and gives its content in small pieces, whatever the file inflates to."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._decompressor = _decompressor(compression)
        self._fed = b""
        self._position = 0

    def feed(self, piece: bytes) -> None:
        """The next bytes of the file; `next` has given all of those before."""
        assert self._position >= len(self._fed)
        self._fed, self._position = piece, 0

    def next(self) -> bytes:
        """The next piece of the content; empty if more must be fed first. Raises `Corrupt`."""
        decompressor = self._decompressor
        if decompressor is None:
            piece = self._fed[self._position : self._position + INFLATED_SLICE_BYTES]
            self._position += len(piece)
            return piece
        while not decompressor.eof:
            piece = b""
            if decompressor.needs_input:
                piece = self._fed[self._position : self._position + DEFLATED_SLICE_BYTES]
                self._position += len(piece)
                if not piece:
                    return b""
            try:
                plain = decompressor.decompress(piece, INFLATED_SLICE_BYTES)
            except _ERRORS as error:
                raise Corrupt(f"It is not {self._compression}: {error}.") from error
            if plain:
                return plain
        if decompressor.unused_data or self._position < len(self._fed):
            raise Corrupt(f"More follows after the end of its {self._compression}.")
        return b""

    def end(self) -> None:
        """All was fed. Raises `Corrupt` if the content is not complete."""
        if self._decompressor is not None and not self._decompressor.eof:
            raise Corrupt(f"Its {self._compression} ends too early.")
