"""From the records of a segment to its files: which record goes into which, and why one goes into none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.base.limits import PARTITIONS_PER_SEGMENT_MAX
from penstock.pipelines.compression import decompress
from penstock.pipelines.dead_letters import DeadLetter, read_dead_letters
from penstock.pipelines.layout import Compression, Layout
from penstock.pipelines.ledger import LedgerFile, Segment, State
from penstock.pipelines.preparation import PartitionTime, Recipe, TimeFormat, prepare
from penstock.pipelines.spool import Spool
from penstock.pipelines.transforms import NoTransforms, TransformOutcome, Transforms
from penstock.storage.disk import OsDisk

ULID = "01JDCMZZZZZZZZZZZZZZZZZZZZ"
NOON_MS = 1_795_435_200_000
MINUTELY = "${date}T${hr}:${minute}"


@dataclass
class Files:
    """What was prepared, by key."""

    entries: Sequence[LedgerFile]
    content: dict[str, bytes] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, list[bytes]]:
        """Records by folder."""
        return {
            file.key.rpartition("/")[0]: self.content[file.key].split(b"\n")[:-1]
            for file in self.entries
            if file.kind == "data"
        }

    @property
    def dead(self) -> list[DeadLetter]:
        return [
            letter
            for file in self.entries
            if file.kind == "dead"
            for letter in read_dead_letters(self.content[file.key])
        ]


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    return Spool(OsDisk(), str(tmp_path_factory.mktemp("spool")))


def prepared(
    spool: Spool,
    pieces: Sequence[bytes],
    time: PartitionTime | None,
    *,
    filepath: str = MINUTELY,
    compression: Compression = "none",
    transforms: Transforms | None = None,
    names: Sequence[str] = (),
) -> Files:
    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def beside(work: Callable[[], None]) -> None:
        work()

    recipe = Recipe(Layout("", filepath, "${slug}", compression), 3, list(names), time)
    records = sum(piece.count(b"\n") for piece in pieces)
    segment = Segment(ULID, State.SEALED, 1, 1, 1, records, 1, NOON_MS, NOON_MS, None)
    work = prepare(segment, "shard", recipe, come(), transforms or NoTransforms(), spool, beside)
    files = Files(asyncio.run(work))
    for file in files.entries:
        assert file.spool is not None and file.size_bytes is not None
        content = b"".join(spool.chunks(file.spool, file.size_bytes))
        files.content[file.key] = decompress(content, compression)
        lines = files.content[file.key]
        assert (len(lines), lines.count(b"\n")) == (file.bytes, file.records), "the ledger tells something else"
    return files


def partition_of(spool: Spool, record: bytes, format: TimeFormat, name: str = "at") -> str:
    """The minute that a record goes to, or why it is dead."""
    files = prepared(spool, [record + b"\n"], PartitionTime(name, format))
    assert sum(file.records for file in files.entries) == 1
    if files.dead:
        (letter,) = files.dead
        assert (letter.reason, bytes(letter.record), letter.pipeline_version) == ("partition_time", record, 3)
        return letter.detail
    ((minute, records),) = files.data.items()
    assert records == [record]
    return minute


NO_TIME = "is no time in the format"
NO_FIELD = "has no field"


@pytest.mark.parametrize(
    ("value", "minute"),
    [
        ('"2026-11-23T14:05:06Z"', "2026-11-23T14:05"),
        ('"2026-11-23T14:05:06.789Z"', "2026-11-23T14:05"),
        ('"2026-11-23T14:05:59.9999999999Z"', "2026-11-23T14:05"),
        ('"2026-11-23T14:05:06.123456789+02:00"', "2026-11-23T12:05"),
        ('"2026-11-23T23:59:00-00:30"', "2026-11-24T00:29"),
        ('"2026-01-01T00:00:00+00:01"', "2025-12-31T23:59"),
        ('"2026-11-23t14:05:06z"', "2026-11-23T14:05"),
        ('"2026-11-23 14:05:06Z"', "2026-11-23T14:05"),
        ('"2026-11-23T14:05:06"', "2026-11-23T14:05"),  # without an offset it is UTC
        ('"\\u0032026-11-23T14:05:06Z"', "2026-11-23T14:05"),
        # D2: leap days, leap seconds, the turn of the year, the first and the last minute.
        ('"2024-02-29T12:00:00Z"', "2024-02-29T12:00"),
        ('"2000-02-29T12:00:00Z"', "2000-02-29T12:00"),
        ('"2023-02-29T12:00:00Z"', NO_TIME),
        ('"2100-02-29T12:00:00Z"', NO_TIME),
        ('"2016-12-31T23:59:60Z"', "2016-12-31T23:59"),
        ('"2016-12-31T23:59:60.5Z"', "2016-12-31T23:59"),
        ('"2017-01-01T00:59:60+01:00"', "2016-12-31T23:59"),
        ('"2016-12-31T23:59:61Z"', NO_TIME),
        ('"2025-12-31T23:59:59.999Z"', "2025-12-31T23:59"),
        ('"2026-03-29T02:30:00+01:00"', "2026-03-29T01:30"),  # an hour that Berlin has not
        ('"1970-01-01T00:00:00Z"', "1970-01-01T00:00"),
        ('"1970-01-01T00:59:59+01:00"', NO_TIME),
        ('"9999-12-31T23:59:59.999Z"', "9999-12-31T23:59"),
        ('"9999-12-31T23:59:59-01:00"', NO_TIME),
        ('"0001-01-01T00:00:00+23:59"', NO_TIME),
        ('"10000-01-01T00:00:00Z"', NO_TIME),
        ('"yesterday"', NO_TIME),
        ('""', NO_TIME),
        ('"' + "2026-11-23T14:05:06." + "1" * 100_000 + 'Z"', "2026-11-23T14:05"),
        ("1795442706", NO_TIME),
        ("null", NO_TIME),
        ("true", NO_TIME),
        ('{"at":"2026-11-23T14:05:06Z"}', NO_TIME),
        ('["2026-11-23T14:05:06Z"]', NO_TIME),
    ],
)
def test_D2_a_time_in_words(spool: Spool, value: str, minute: str) -> None:
    assert minute in partition_of(spool, b'{"n":1,"at":' + value.encode() + b"}", "rfc3339")


@pytest.mark.parametrize(
    ("value", "format", "minute"),
    [
        ("0", "unix_s", "1970-01-01T00:00"),
        ("1795442706", "unix_s", "2026-11-23T14:05"),
        ("1795442706.999", "unix_s", "2026-11-23T14:05"),
        ("1.795442706e9", "unix_s", "2026-11-23T14:05"),
        ("253402300799.999", "unix_s", "9999-12-31T23:59"),
        ("253402300800", "unix_s", NO_TIME),
        ("1795442706789", "unix_s", NO_TIME),  # milliseconds, taken for seconds
        ("1795442706789", "unix_ms", "2026-11-23T14:05"),
        ("1795442706789.5", "unix_ms", "2026-11-23T14:05"),
        ("253402300799999", "unix_ms", "9999-12-31T23:59"),
        ("253402300800000", "unix_ms", NO_TIME),
        ("-1", "unix_s", NO_TIME),
        ("-1", "unix_ms", NO_TIME),
        ("1e308", "unix_s", NO_TIME),
        ("1e400", "unix_s", NO_TIME),
        ("9" * 5_000, "unix_s", NO_TIME),
        ("9" * 5_000, "unix_ms", NO_TIME),
        ("false", "unix_s", NO_TIME),
        ("true", "unix_ms", NO_TIME),
        ("null", "unix_s", NO_TIME),
        ('"1795442706"', "unix_s", NO_TIME),
        ('"2026-11-23T14:05:06Z"', "unix_ms", NO_TIME),
        ("{}", "unix_s", NO_TIME),
    ],
)
def test_D2_a_time_in_numbers(spool: Spool, value: str, format: TimeFormat, minute: str) -> None:
    assert minute in partition_of(spool, b'{"n":1,"at":' + value.encode() + b"}", format)


@pytest.mark.parametrize(
    ("record", "name", "minute"),
    [
        (b"{}", "at", NO_FIELD),
        (b'{"AT":1}', "at", NO_FIELD),
        (b'{"b":{"at":1}}', "at", NO_FIELD),
        (b'{"a":{"b":1}}', "a.b", NO_FIELD),
        (b'{"a.b":60}', "a.b", "1970-01-01T00:01"),
        (b'{"at":0,"at":60}', "at", "1970-01-01T00:01"),  # the last counts, as to most readers of JSON
        (b'{"a\\u0074":60}', "at", "1970-01-01T00:01"),
        ('{"été":60}'.encode(), "été", "1970-01-01T00:01"),
        (b'{"value":60}', "value", "1970-01-01T00:01"),
        (b'{"x":\r[1],\t"at" : 60 }', "at", "1970-01-01T00:01"),
        (b'{"at":60,"x":' + b"[" * 200 + b"]" * 200 + b"}", "at", "1970-01-01T00:01"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_which_field_tells_the_time(spool: Spool, record: bytes, name: str, minute: str) -> None:
    assert minute in partition_of(spool, record, "unix_s", name)


@pytest.mark.parametrize("name", ["at", "x"])
def test_a_record_that_is_too_deep_to_read_is_dead_and_keeps_no_other_waiting(spool: Spool, name: str) -> None:
    record = b'{"%s":' % name.encode() + b"[" * 100_000 + b"]" * 100_000 + b"}"
    files = prepared(spool, [b'{"at":60}\n', record + b"\n", b'{"at":60}\n'], PartitionTime("at", "unix_s"))
    assert files.data == {"1970-01-01T00:01": [b'{"at":60}'] * 2}
    (content,) = (files.content[file.key] for file in files.entries if file.kind == "dead")
    assert content.startswith(b'{"reason":"partition_time","detail":"The record is nested too deeply."')
    assert record in content


@settings(deadline=None)  # it writes files
@given(st.integers(0, 253_402_300_799_999), st.integers(-14 * 60, 14 * 60))
def test_a_time_is_the_same_in_words_seconds_and_milliseconds(spool: Spool, at_ms: int, offset_min: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    try:
        elsewhere = at.astimezone(timezone(timedelta(minutes=offset_min)))
    except OverflowError:
        elsewhere = at
    minutes = {
        partition_of(spool, json.dumps({"at": value}).encode(), format)
        for value, format in (
            (elsewhere.isoformat(), "rfc3339"),
            (at_ms, "unix_ms"),
            (at_ms // 1000, "unix_s"),
        )
    }
    assert minutes == {f"{at:%Y-%m-%dT%H:%M}".zfill(16)}


def test_records_of_one_partition_stay_in_their_order_and_in_one_file(spool: Spool) -> None:
    pieces = [b'{"at":0,"n":1}\n{"at":60,"n":2}\n', b'{"at":61,"n":3}\n{"at":1,"n":4}\n']
    files = prepared(spool, pieces, PartitionTime("at", "unix_s"))
    assert files.data == {
        "1970-01-01T00:00": [b'{"at":0,"n":1}', b'{"at":1,"n":4}'],
        "1970-01-01T00:01": [b'{"at":60,"n":2}', b'{"at":61,"n":3}'],
    }


def test_a_segment_may_have_so_many_partitions_and_the_rest_is_dead(spool: Spool) -> None:
    most = PARTITIONS_PER_SEGMENT_MAX
    lines = [b'{"at":%d}\n' % (60 * n) for n in range(most + 5)]
    dead = b'{"at":null}\n'
    again = b"".join(lines[:most])
    files = prepared(spool, [dead, *lines, again], PartitionTime("at", "unix_s"))
    assert len(files.data) == most
    assert all(len(records) == 2 for records in files.data.values())
    assert [letter.reason for letter in files.dead] == ["partition_time"] + ["too_many_partitions"] * 5
    assert str(most) in files.dead[-1].detail


def test_partitions_that_come_again_are_not_counted_twice(spool: Spool) -> None:
    """More than half of the most, in each of two pieces."""
    half = [b'{"at":%d}\n' % (60 * n) for n in range(PARTITIONS_PER_SEGMENT_MAX - 50)]
    new = [b'{"at":%d}\n' % (60 * n) for n in range(1_000, 1_050)]
    files = prepared(spool, [b"".join(half), b"".join(half + new)], PartitionTime("at", "unix_s"))
    assert not files.dead and len(files.data) == PARTITIONS_PER_SEGMENT_MAX


def test_partitions_that_have_the_same_key_are_one_file(spool: Spool) -> None:
    days = [b'{"at":%d}\n' % (86_400 * n) for n in range(364)]
    for pieces in ([b"".join(days)], days):
        files = prepared(spool, pieces, PartitionTime("at", "unix_s"), filepath="y=${year}")
        assert not files.dead and {folder: len(found) for folder, found in files.data.items()} == {"y=1970": 364}


def test_a_key_that_tells_no_time_is_one_file_of_all_that_have_one(spool: Spool) -> None:
    pieces = [b'{"at":0}\n{"at":253402300799}\n{"x":1}\n']
    files = prepared(spool, pieces, PartitionTime("at", "unix_s"), filepath="all")
    assert {folder: len(found) for folder, found in files.data.items()} == {"all": 2}
    assert len(files.dead) == 1


@dataclass(frozen=True)
class Dead:
    record: bytes
    reason: str
    detail: str


@dataclass(frozen=True)
class Outcome:
    ndjson: bytes
    records: int
    dead: list[Dead]


class EvenOnly:
    """Drops the records with an odd n, calls those without an n dead, and doubles what is left."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def names(self) -> list[str]:
        return ["even"]

    def version(self, name: str) -> str:
        return "0123456789ab"

    async def run(self, name: str, ndjson: bytes) -> TransformOutcome:
        self.given.append(ndjson)
        records: list[dict[str, Any]] = [json.loads(line) for line in ndjson.splitlines()]
        dead = [Dead(json.dumps(r).encode(), "error", "KeyError: 'n'") for r in records if "n" not in r]
        made = [json.dumps(r).encode() + b"\n" for r in records if r.get("n", 1) % 2 == 0 for _ in range(2)]
        return Outcome(b"".join(made), len(made), dead)


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "zstd"])
def test_a_transform_gives_fewer_records_or_more_and_says_which_are_dead(
    spool: Spool, compression: Compression
) -> None:
    transforms = EvenOnly()
    files = prepared(
        spool,
        [b'{"n": 1}\n{"n": 2}\n{"x": 3}\n', b'{"n": 5}\n', b'{"n": 4}\n'],
        None,
        compression=compression,
        transforms=transforms,
        names=["even", "even"],
    )
    (data,) = files.data.values()
    assert data == [b'{"n": 2}'] * 4 + [b'{"n": 4}'] * 4
    assert [(bytes(d.record), d.reason, d.transform, d.code_version) for d in files.dead] == [
        (b'{"x": 3}', "error", "even", "0123456789ab")
    ]
    assert b'{"n": 5}\n' in transforms.given and b"" not in transforms.given


def test_a_transform_that_drops_all_makes_no_file(spool: Spool) -> None:
    files = prepared(spool, [b'{"n": 1}\n'], None, transforms=EvenOnly(), names=["even"])
    assert not files.entries


def test_what_an_attempt_that_was_cut_short_left_is_replaced(tmp_path: Path) -> None:
    spool = Spool(OsDisk(), str(tmp_path))
    path = spool.path("shard", ULID, 0)
    spool.start(path)
    spool.append(path, b"half of a file of an attempt before")
    files = prepared(spool, [b'{"at":0}\n'], PartitionTime("at", "unix_s"))
    assert files.data == {"1970-01-01T00:00": [b'{"at":0}']}


def test_what_nobody_delivers_any_more_is_cleared_and_what_waits_is_kept(tmp_path: Path) -> None:
    spool = Spool(OsDisk(), str(tmp_path))
    for shard in ("one", "other"):
        for number in (0, 1):
            spool.start(spool.path(shard, ULID, number))
    kept = spool.path("one", ULID, 1)
    spool.clear("one", [kept])
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted([kept, spool.path("other", ULID, 0), spool.path("other", ULID, 1)])
    spool.clear("one", [])
    spool.clear("one", [])
    spool.clear("other", [])
    assert not list(tmp_path.iterdir())
