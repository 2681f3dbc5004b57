"""Where all records of a shard are at one moment: in files of its bucket, or in its rows.

Files and rows are read by one statement, which sees one state of the database whatever happens meanwhile: so a
record is in a file or in a row, never in both and never in neither.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from threading import Lock

from isal import isal_zlib
from msgspec import Struct, msgpack

from penstock.base.errors import Corrupt
from penstock.base.limits import READ_CHUNK_BYTES
from penstock.pipelines.file_content import OpenReader
from penstock.pipelines.layout import Layout, partition_ms
from penstock.storage.connection import S3Connection

_HEADER_BYTES = 4
_KEYS = 1_000
_DELIVERED = 2

#: What is delivered in files of data; then, if wanted, the rows after those that are.
_EVERYTHING = f"""
SELECT 0, files.key, 0, NULL FROM segments JOIN files ON files.segment = segments.ulid
  WHERE segments.state >= {_DELIVERED} AND files.kind = 'data'
UNION ALL
SELECT 1, received_ms, crc32, body FROM batches
  WHERE ?1 AND sequence > max(
    (SELECT sequence FROM freed),
    ifnull((SELECT last_sequence FROM segments WHERE state >= {_DELIVERED} ORDER BY ulid DESC LIMIT 1), 0))
"""


class SnapshotHead(Struct, frozen=True, tag=True):
    """Where the shard's files are. `first_record`: the shard's records before that one are in files that it does
    not remember. `own_time`: records choose their partition themselves."""

    bucket: str
    s3: S3Connection | None
    layout: Layout
    own_time: bool
    first_record: int


class SnapshotFiles(Struct, frozen=True, tag=True):
    keys: list[str]


class SnapshotRows(Struct, frozen=True, tag=True):
    """Records of one partition, as they came; `received_ms` is when the first of them did."""

    received_ms: int
    ndjson: bytes


Frame = SnapshotHead | SnapshotFiles | SnapshotRows

_decoder = msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    payload = msgpack.encode(frame)
    return len(payload).to_bytes(_HEADER_BYTES, "big") + payload


async def decode_frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Of a stream, whose chunks may end anywhere."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _HEADER_BYTES:
            end = _HEADER_BYTES + int.from_bytes(buffer[:_HEADER_BYTES], "big")
            if len(buffer) < end:
                break
            frame: Frame = _decoder.decode(bytes(buffer[_HEADER_BYTES:end]))
            del buffer[:end]
            yield frame


class SnapshotReader:
    """Reads the frames after the head. Its methods block and may be called from any thread. The shard's log cannot
    start again until it is closed, or has come to its end."""

    def __init__(self, reader: OpenReader, layout: Layout, with_rows: bool) -> None:
        self._frames = _frames(reader, layout, with_rows)
        # Whoever gives up closes it while another thread may still read.
        self._lock = Lock()

    def next(self) -> Frame | None:
        """None at the end. Raises `Corrupt`."""
        with self._lock:
            return next(self._frames, None)

    def close(self) -> None:
        with self._lock:
            self._frames.close()


def _frames(reader: OpenReader, layout: Layout, with_rows: bool) -> Generator[Frame]:
    span_ms = partition_ms(layout)
    keys: list[str] = []
    bodies: list[bytes] = []
    size = first_ms = 0
    with reader() as rows:
        for part, key_or_ms, crc32, body in rows.rows(_EVERYTHING, (int(with_rows),)):
            if part == 0:
                keys.append(key_or_ms)
                if len(keys) == _KEYS:
                    yield SnapshotFiles(keys)
                    keys = []
                continue
            if isal_zlib.crc32(body) != crc32:
                raise Corrupt("A row of the shard is damaged. Restore the shard.")
            if bodies and (
                size >= READ_CHUNK_BYTES or (span_ms is not None and key_or_ms // span_ms != first_ms // span_ms)
            ):
                yield SnapshotRows(first_ms, b"".join(bodies))
                bodies, size = [], 0
            if not bodies:
                first_ms = key_or_ms
            bodies.append(body)
            size += len(body)
    if keys:
        yield SnapshotFiles(keys)
    if bodies:
        yield SnapshotRows(first_ms, b"".join(bodies))
