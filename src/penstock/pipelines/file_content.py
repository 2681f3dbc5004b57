"""A file's bytes, made from the rows of its range. Runs beside the loop.

The same range gives the same bytes every time it is made, because rows do not change and the compressor's
header carries no time: making a file again after a crash replaces it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from isal import isal_zlib

from penstock.base.errors import Corrupt
from penstock.base.limits import READ_CHUNK_BYTES
from penstock.pipelines.layout import Compression
from penstock.storage.database import Reader

#: isal's levels go from 0 to 3; on NDJSON 1 compresses nearly as well as 3 at several times the speed.
_GZIP_LEVEL = 1
_GZIP_FORMAT = 31  # zlib's wbits for a gzip header and trailer

_ROWS = "SELECT sequence, crc32, body FROM batches WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence"


def file_chunks(
    reader: Callable[[], AbstractContextManager[Reader]], first: int, last: int, compression: Compression
) -> Iterator[bytes]:
    """The content of the file that holds rows `first` to `last`. Raises `Corrupt` if a row is not what was
    stored, or is missing."""
    plain = _plain_chunks(reader, first, last)
    return plain if compression == "none" else _gzipped(plain)


def _plain_chunks(reader: Callable[[], AbstractContextManager[Reader]], first: int, last: int) -> Iterator[bytes]:
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


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    gzip = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_FORMAT)
    for chunk in chunks:
        yield gzip.compress(chunk)
    yield gzip.flush()
