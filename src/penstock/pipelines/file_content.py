"""A file's bytes, made from the rows of its segment. Runs beside the loop.

The same range gives the same bytes every time it is made, because rows do not change and the compressor's
header carries no time: making a file again after a crash replaces it by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from isal import isal_zlib

from penstock.base.errors import Corrupt
from penstock.base.limits import READ_CHUNK_BYTES
from penstock.pipelines.compression import compressed
from penstock.pipelines.layout import Compression
from penstock.storage.database import Reader

OpenReader = Callable[[], AbstractContextManager[Reader]]

_ROWS = "SELECT sequence, crc32, body FROM batches WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence"


def file_chunks(reader: OpenReader, first: int, last: int, compression: Compression) -> Iterator[bytes]:
    """The content of the file that holds rows `first` to `last`. Raises `Corrupt` if a row is not what was
    stored, or is missing."""
    return compressed(_plain_chunks(reader, first, last), compression)


def read_piece(reader: OpenReader, first: int, last: int) -> tuple[bytes, int]:
    """About `READ_CHUNK_BYTES` of NDJSON from row `first`, and the row to go on from. Raises `Corrupt`."""
    with reader() as rows:
        bodies, first = _read_some(rows, first, last)
    return b"".join(bodies), first


class Digest:
    """The SHA-256 of bytes on their way, of the last time that they were made; `expected` where it is known."""

    def __init__(self, expected: str | None = None) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()

    @property
    def hex(self) -> str:
        return self._sha256.hexdigest()

    def of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Raises `Corrupt` at the end of what is not as expected."""
        self._sha256 = hashlib.sha256()
        for chunk in chunks:
            self._sha256.update(chunk)
            yield chunk
        if self._expected is not None and self.hex != self._expected:
            raise Corrupt(
                f"A file that waited on the disk is damaged (its SHA-256 is {self.hex}, not {self._expected}) and "
                "is not delivered. Restore it from a backup."
            )


def _plain_chunks(reader: OpenReader, first: int, last: int) -> Iterator[bytes]:
    with reader() as rows:
        while first <= last:
            bodies, first = _read_some(rows, first, last)
            yield b"".join(bodies)


def _read_some(reader: Reader, first: int, last: int) -> tuple[list[bytes], int]:
    """About `READ_CHUNK_BYTES` of rows from `first`, and the row to go on from."""
    bodies: list[bytes] = []
    size = 0
    rows = reader.rows(_ROWS, (first, last))
    for sequence, crc32, body in rows:
        if sequence != first or isal_zlib.crc32(body) != crc32:
            raise Corrupt(f"Row {first} is damaged or missing; the file is not written. Restore the shard.")
        bodies.append(body)
        size += len(body)
        first += 1
        if size >= READ_CHUNK_BYTES:
            rows.close()
            break
    else:
        if first <= last:
            raise Corrupt(f"Row {first} is missing; the file is not written. Restore the shard.")
    return bodies, first
