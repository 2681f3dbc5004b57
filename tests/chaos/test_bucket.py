"""The reader of buckets is read: what must not be in a bucket is noticed, what may be is not."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter

import pytest

from .application import REFUSED_EACH
from .bucket import Bucket, zstd
from .ledger import record
from .verification import Verdict

ULID = "01M8894WDERWJQD0BEYE1HAQ8R"
HOUR = "event_date=2026-01-01/hr=01"  # of the records whose number is 1 more than a multiple of 3


class FilesInMemory:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> set[str]:
        return set(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]


def line(sequence: int, **changes: object) -> bytes:
    return json.dumps(record(1, sequence) | changes).encode() + b"\n"


def letter(sequence: int, reason: str = "error") -> bytes:
    return json.dumps({"reason": reason, "record": record(1, sequence)}).encode() + b"\n"


def read(files: dict[str, bytes], *, by_time: bool = False) -> Bucket:
    bucket = Bucket(FilesInMemory(files), ("", "web/clicks"), by_time=by_time)
    assert bucket.read_new_files()
    bucket.violations += bucket.tally.violations
    return bucket


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{HOUR}/{ULID}.json", line(1)),
        (f"{HOUR}/{ULID}.json.gz", gzip.compress(line(1, shaped=True))),
        (f"web/clicks/{HOUR}/{ULID}.json.zst", zstd.compress(line(1))),
        (f"web/clicks/_dead/{HOUR}/{ULID}.json.deflate", zlib.compress(letter(REFUSED_EACH))),
        (f"_dead/{HOUR}/{ULID}.json", letter(REFUSED_EACH)),
    ],
)
def test_a_file_of_any_settings_is_read(name: str, content: bytes) -> None:
    bucket = read({name: content}, by_time=True)
    assert (bucket.violations, bucket.records, len(bucket.tally)) == ([], 1, 1)
    assert bucket.dead == (Counter(error=1) if "_dead" in name else Counter())


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (f"other/{HOUR}/{ULID}.json", line(1), "is not a file that belongs"),
        (f"{HOUR}/{ULID}.json.tmp", line(1), "is not a file that belongs"),
        (f"{HOUR}/{ULID}.json.gz", gzip.compress(line(1))[:-4], "visible before it was complete"),
        (f"{HOUR}/{ULID}.json", line(2), "of another hour"),
        (f"{HOUR}/{ULID}.json", line(REFUSED_EACH * 3 + 1, note="x"), "is damaged"),
        (f"{HOUR}/{ULID}.json", line(REFUSED_EACH, shaped=True), "that the transform refuses"),
        (f"_dead/{HOUR}/{ULID}.json", letter(1), "is not to be refused"),
        (f"_dead/{HOUR}/{ULID}.json", letter(REFUSED_EACH, "crash"), "is not to be refused"),
        (f"_dead/{HOUR}/{ULID}.json", line(1), "no dead letter"),
    ],
)
def test_what_must_not_be_in_a_bucket_is_named(name: str, content: bytes, complaint: str) -> None:
    assert any(complaint in violation for violation in read({name: content}, by_time=True).violations)


def test_a_file_that_changes_or_goes_is_noticed() -> None:
    files = FilesInMemory({f"{HOUR}/{ULID}.json": line(1)})
    bucket = Bucket(files)
    bucket.read_new_files()
    assert bucket.check_unchanged() == []
    files.files[f"{HOUR}/{ULID}.json"] = line(4)
    assert "has changed" in bucket.check_unchanged()[0]
    files.files.clear()
    assert "has disappeared" in bucket.check_unchanged()[0]


def test_a_verdict_that_counts_otherwise_or_has_problems_disagrees() -> None:
    counts = Counter(accepted=9, in_files=9, files=2, delivered=8, dead=1)
    assert Verdict(counts, []).disagreements(records=9, files=2, dead=1) == []
    assert len(Verdict(counts, []).disagreements(records=8, files=2, dead=1)) == 3
    assert Verdict(counts, ["verify: gap"]).disagreements(records=9, files=2, dead=1) == ["verify: gap"]
    waiting = counts + Counter(pending=1)
    assert Verdict(waiting, []).disagreements(records=9, files=2, dead=1) == [
        "verify: pending is 1, but there are 0"
    ]
