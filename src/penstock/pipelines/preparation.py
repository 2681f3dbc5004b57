"""From the rows of a segment to its files, when the records choose their file or a transform changes them.

What a user's function gives may be different each time, so it is asked once: the files are made on the local disk,
made durable, and then recorded in one transaction. From there on they are delivered as often as it takes, always
the same. An attempt that was cut short before the record leaves nothing that anybody has seen, and is made anew.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from penstock.base.limits import FIELD_NAME_LENGTH_MAX, PARTITIONS_PER_SEGMENT_MAX, SPOOL_PIECE_BYTES
from penstock.pipelines.compression import compressor
from penstock.pipelines.dead_letters import dead_letter_line
from penstock.pipelines.layout import Layout, file_key, partition_ms
from penstock.pipelines.ledger import FileKind, LedgerFile, Segment
from penstock.pipelines.spool import Spool
from penstock.pipelines.transforms import Transforms

TimeFormat = Literal["rfc3339", "unix_s", "unix_ms"]

#: The years that a path can tell.
_TIME_MS_RANGE = range(253_402_300_800_000)


class PartitionTime(Struct, frozen=True, forbid_unknown_fields=True):
    """Records belong to the partition of the time in their `field`, a name on the top level."""

    field: Annotated[
        str,
        Meta(
            description="Without quotation marks, backslashes and control characters.",
            extra_json_schema={"minLength": 1, "maxLength": FIELD_NAME_LENGTH_MAX},
            examples=["at"],
        ),
    ]
    format: Annotated[
        TimeFormat, Meta(description="`rfc3339`: text, in UTC without an offset; the others: numbers.")
    ] = "rfc3339"


class Recipe(Struct, frozen=True):
    """How the records of a segment become files."""

    layout: Layout
    version: int
    transforms: list[str]
    partition_time: PartitionTime | None

    @property
    def is_needed(self) -> bool:
        """False: the segment is one file, made of its rows as they are."""
        return bool(self.transforms) or self.partition_time is not None


async def prepare(
    segment: Segment,
    shard: str,
    recipe: Recipe,
    pieces: AsyncIterator[bytes],
    transforms: Transforms,
    spool: Spool,
    beside: Callable[[Callable[[], None]], Awaitable[None]],
) -> Sequence[LedgerFile]:
    """Make the segment's files in the spool, of its NDJSON in `pieces`; durable on return. `beside` runs what
    blocks.

    Raises `Unavailable` when a transform cannot be run now, `NotFound` when it is not in the application any more,
    `StorageFull`."""
    writer = _Writer(segment, shard, recipe, spool)
    async for ndjson in pieces:
        for name in recipe.transforms:
            if not ndjson:
                break
            outcome = await transforms.run(name, ndjson)
            ndjson = outcome.ndjson
            code_version = transforms.version(name)
            for dead in outcome.dead:
                writer.add_dead(dead.record, dead.reason, dead.detail, name, code_version)
        await beside(partial(writer.add, ndjson))
    await beside(writer.finish)
    return writer.files


class _Output:
    """One file while it is made."""

    def __init__(self, path: str, key: str, kind: FileKind, layout: Layout, spool: Spool) -> None:
        self.key = key
        self.kind = kind
        self.path = path
        self.records = self.bytes = self.size_bytes = 0
        self.reasons: Counter[str] = Counter()
        self._spool = spool
        self._compressor = compressor(layout.compression)
        self._sha256 = hashlib.sha256()
        self._waiting = bytearray()
        spool.start(path)

    def add(self, lines: bytes, records: int) -> None:
        self.records += records
        self.bytes += len(lines)
        self._write(self._compressor.compress(lines))

    def finish(self) -> None:
        self._write(self._compressor.flush(), all=True)

    def entry(self, segment: Segment) -> LedgerFile:
        return LedgerFile(
            segment=segment.ulid,
            key=self.key,
            kind=self.kind,
            records=self.records,
            bytes=self.bytes,
            spool=self.path,
            size_bytes=self.size_bytes,
            sha256=self._sha256.hexdigest(),
            reasons=dict(self.reasons),
        )

    def _write(self, data: bytes, *, all: bool = False) -> None:
        self._waiting += data
        if self._waiting and (all or len(self._waiting) >= SPOOL_PIECE_BYTES):
            self._spool.append(self.path, bytes(self._waiting))
            self._sha256.update(self._waiting)
            self.size_bytes += len(self._waiting)
            self._waiting.clear()


class _Writer:
    """The files of one segment. Its methods block, but for `add_dead`."""

    def __init__(self, segment: Segment, shard: str, recipe: Recipe, spool: Spool) -> None:
        self._segment = segment
        self._shard = shard
        self._recipe = recipe
        self._spool = spool
        self._outputs: dict[str, _Output] = {}
        #: Of the files that records chose.
        self._data_keys: set[str] = set()
        self._dead: list[bytes] = []
        self._dead_reasons: Counter[str] = Counter()
        time = recipe.partition_time
        self._time_of = _TimeReader(time) if time is not None else None
        self._partition_ms = partition_ms(recipe.layout)

    @property
    def files(self) -> list[LedgerFile]:
        return [output.entry(self._segment) for output in self._outputs.values()]

    def add_dead(
        self, record: bytes, reason: str, detail: str, transform: str = "", code_version: str = ""
    ) -> None:
        segment = self._segment
        line = dead_letter_line(
            record, reason, detail, self._recipe.version, segment.received_ms, transform, code_version
        )
        self._dead.append(line)
        self._dead_reasons[reason] += 1

    def add(self, ndjson: bytes) -> None:
        if self._time_of is None:
            if ndjson:
                key = self._key(self._segment.received_ms, "data")
                self._output(key, "data").add(ndjson, ndjson.count(b"\n"))
        else:
            for key, lines in self._by_key(ndjson, self._time_of).items():
                self._output(key, "data").add(b"".join(lines), len(lines) // 2)
        if self._dead:
            output = self._output(self._key(self._segment.received_ms, "dead"), "dead")
            output.add(b"".join(self._dead), len(self._dead))
            output.reasons += self._dead_reasons
            self._dead.clear()
            self._dead_reasons.clear()

    def finish(self) -> None:
        outputs = self._outputs.values()
        for output in outputs:
            output.finish()
        self._spool.finish([output.path for output in outputs])

    def _by_key(self, ndjson: bytes, time_of: _TimeReader) -> dict[str, list[bytes]]:
        """Lines by the file that they belong to."""
        found: dict[str, list[bytes]] = {}
        span_ms = self._partition_ms or _TIME_MS_RANGE.stop
        keys: dict[int, str] = {}  # by the beginning of the partition
        # Not `splitlines`, which also cuts at a carriage return, white space to JSON.
        for record in ndjson.split(b"\n"):
            if not record:
                continue
            at_ms = time_of(record)
            if isinstance(at_ms, str):
                self.add_dead(record, "partition_time", at_ms)
                continue
            start_ms = at_ms - at_ms % span_ms
            key = keys.get(start_ms)
            if key is None:
                key = keys[start_ms] = self._key(start_ms, "data")
            if key not in self._data_keys and len(self._data_keys) >= PARTITIONS_PER_SEGMENT_MAX:
                self.add_dead(
                    *(record, "too_many_partitions"),
                    f"The records that came together are of more than {PARTITIONS_PER_SEGMENT_MAX} partitions.",
                )
                continue
            self._data_keys.add(key)
            found.setdefault(key, []).extend((record, b"\n"))
        return found

    def _output(self, key: str, kind: FileKind) -> _Output:
        output = self._outputs.get(key)
        if output is None:
            path = self._spool.path(self._shard, self._segment.ulid, len(self._outputs))
            output = self._outputs[key] = _Output(path, key, kind, self._recipe.layout, self._spool)
        return output

    def _key(self, at_ms: int, kind: FileKind) -> str:
        return file_key(self._recipe.layout, at_ms, self._segment.ulid, dead=kind == "dead")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")
#: A leap second belongs to the minute that it ends.
_LEAP_SECOND = re.compile(r"^(\d{4}-\d\d-\d\d.\d\d:\d\d):60")


class _TimeReader:
    """Reads the time in a record: milliseconds since the Unix epoch or, in words, why there is none."""

    def __init__(self, time: PartitionTime) -> None:
        self._time = time
        # The decoder skips all other fields without building anything of them.
        record = msgspec.defstruct("Record", [("value", msgspec.Raw, msgspec.UNSET)], rename={"value": time.field})
        self._decoder = msgspec.json.Decoder(record)

    def __call__(self, record: bytes) -> int | str:
        try:
            raw: msgspec.Raw | msgspec.UnsetType = getattr(self._decoder.decode(record), "value")  # noqa: B009
            if raw is msgspec.UNSET:
                return f"The record has no field {self._time.field!r}."
            at_ms = self._milliseconds(msgspec.json.decode(raw))
        except RecursionError:
            # How deep is too deep depends on the caller's stack: what was taken may not be readable here.
            return "The record is nested too deeply."
        except (ValueError, OverflowError, TypeError):
            at_ms = None
        if at_ms is None or at_ms not in _TIME_MS_RANGE:
            return f"{self._time.field!r} is no time in the format {self._time.format}, of the years 1970 to 9999."
        return at_ms

    def _milliseconds(self, value: object) -> int | None:
        if self._time.format == "rfc3339":
            if not isinstance(value, str):
                return None
            text = _LEAP_SECOND.sub(r"\1:59", _LONG_FRACTION.sub(r"\1", value)).upper()
            at = datetime.fromisoformat(text)
            return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return int(value * 1000) if self._time.format == "unix_s" else int(value)
