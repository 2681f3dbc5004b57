"""Is each accepted record in exactly one file? Pure decisions over what ledgers and buckets say.

What is proven, shard by shard:

    the segments of the ledger      have each record that was accepted once: no gap, no overlap
    the files of a segment          are in the bucket, of the size that the ledger says; read in full, of its
                                    SHA-256 and with as many lines as records
    their records together          are those of the segment, unless a transform may change their number
    what is in no segment's files   waits, and is counted as pending

and of the bucket: each object that looks like a file of this pipeline is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from penstock.base.ids import ulid_ms
from penstock.pipelines.layout import Layout, key_patterns, key_roots
from penstock.pipelines.ledger import LedgerFile, LedgerPage, Segment, State
from penstock.pipelines.stored_file import FileFacts

ProblemKind = Literal["missing", "extra", "size", "checksum", "count", "gap", "overlap"]


class Problem(Struct, frozen=True, omit_defaults=True):
    """Something that cannot be if each record is in exactly one file. `message` is for people."""

    kind: ProblemKind
    message: str
    bucket: str = ""
    key: str = ""
    shard: str = ""
    segment: str = ""


@dataclass(slots=True)
class ShardCount:
    """What was looked at of one shard; the counts of several calls are added.

    When all of it was: accepted = before_ledger + in_files + pending."""

    shard: str
    version: int
    state: str
    #: Records that came.
    accepted: int = 0
    #: Those of them that are in files, that are in none yet, and that were delivered before the ledger begins.
    in_files: int = 0
    pending: int = 0
    before_ledger: int = 0
    segments: int = 0
    #: Of files: their number, the size of the objects, and the records in data and in dead-letter files.
    files: int = 0
    bytes: int = 0
    delivered: int = 0
    dead: int = 0


@dataclass(slots=True)
class ShardCheck:
    """Goes through a shard's ledger in order. `next_record` is the first record that no segment so far has."""

    count: ShardCount
    bucket: str
    #: No transform may drop or add records.
    keeps_records: bool
    next_record: int = 1
    problems: list[Problem] = field(default_factory=list)

    def begin_page(self, page: LedgerPage) -> None:
        """A ledger that is full forgets its oldest segments, also while it is being looked at."""
        forgotten = page.from_record - self.next_record
        if forgotten > 0:
            self.count.before_ledger += forgotten
            self.next_record = page.from_record

    def take(self, segment: Segment, files: Sequence[LedgerFile]) -> list[LedgerFile]:
        """The next segment of the ledger. Gives the files that must be in the bucket."""
        self.count.segments += 1
        self._check_place(segment)
        if segment.state < State.DELIVERED:
            self.count.pending += segment.records
            # Those that are there already are looked at like all others.
            return [file for file in files if file.delivered]
        self.count.in_files += segment.records
        if self.keeps_records:
            self._check_records(segment, files)
        return list(files)

    def end_shard(self, page: LedgerPage) -> None:
        """`page` was the last one."""
        self.count.accepted += page.accepted_records
        waiting = page.accepted_records - (self.next_record - 1)
        self.count.pending += max(0, waiting)
        if waiting < 0:
            self._add("count", f"The ledger has {-waiting} records more than the shard accepted.")

    def file(self, file: LedgerFile, size_bytes: int | None, facts: FileFacts | None) -> None:
        """A file that must be in the bucket: its size there, None if it is not; `facts` if it was read."""
        if size_bytes is None:
            self._add_file("missing", file, f"It has {file.records} records and is not in the bucket.")
            return
        self.count.files += 1
        self.count.bytes += size_bytes
        if file.kind == "dead":
            self.count.dead += file.records
        else:
            self.count.delivered += file.records
        if not file.delivered:
            self._add_file("missing", file, "Its segment is finished, but it was never recorded as delivered.")
        elif size_bytes != file.size_bytes:
            self._add_file("size", file, f"It has {size_bytes} bytes, of {file.size_bytes} that were delivered.")
        elif facts is not None and facts.sha256 != file.sha256:
            why = facts.damage or "Its bytes are not those that were delivered."
            self._add_file("checksum", file, f"{why} Its SHA-256 is {facts.sha256}, not {file.sha256}.")
        elif facts is not None and facts.lines != file.records:
            found = facts.damage if facts.lines is None else f"It has {facts.lines} lines."
            self._add_file("count", file, f"{found} The ledger says {file.records} records.")

    def _check_place(self, segment: Segment) -> None:
        first, end = segment.first_record, segment.first_record + segment.records
        if first > self.next_record:
            lost = first - self.next_record
            self._add("gap", f"No segment has the {lost} records from number {self.next_record} on.", segment)
        elif first < self.next_record:
            twice = min(end, self.next_record) - first
            self._add("overlap", f"An earlier segment has the {twice} records from number {first} on too.", segment)
        self.next_record = max(self.next_record, end)

    def _check_records(self, segment: Segment, files: Sequence[LedgerFile]) -> None:
        records = sum(file.records for file in files)
        if records != segment.records:
            self._add("count", f"Its files have {records} records, of {segment.records} accepted.", segment)

    def _add(self, kind: ProblemKind, message: str, segment: Segment | None = None) -> None:
        ulid = segment.ulid if segment else ""
        self.problems.append(Problem(kind, message, shard=self.count.shard, segment=ulid))

    def _add_file(self, kind: ProblemKind, file: LedgerFile, message: str) -> None:
        self.problems.append(Problem(kind, message, self.bucket, file.key, self.count.shard, file.segment))


class Place(Struct, frozen=True, order=True):
    """A bucket; without an `endpoint` one of this machine's."""

    endpoint: str
    bucket: str


class Layouts:
    """The layouts that a pipeline has had in one place: which keys may be its files', and where to look."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._patterns = [pattern for layout in dict.fromkeys(layouts) for pattern in key_patterns(layout)]
        self._layouts = layouts

    def roots(self) -> list[str]:
        """What all its keys start with, sorted, none of which starts with another."""
        found: list[str] = []
        for root in sorted({root for layout in self._layouts for root in key_roots(layout)}):
            if not found or not root.startswith(found[-1]):
                found.append(root)
        return found

    def ulid_of(self, key: str) -> str | None:
        """Of the file that `key` looks like; None if it looks like none."""
        for pattern in self._patterns:
            if match := pattern.fullmatch(key):
                return match["slug"]
        return None


def is_older(ulid: str, created_ms: int) -> bool:
    """Whether the file of this ULID was there before a pipeline that was created then."""
    return ulid_ms(ulid) < created_ms


def extra(place: Place, key: str, size_bytes: int) -> Problem:
    message = (
        f"It looks like a file of this pipeline ({size_bytes} bytes), but is in no ledger: somebody put it there, "
        "or it is of a pipeline that was deleted."
    )
    return Problem("extra", message, place.bucket, key)
