"""From NDJSON to the calls of a transform, and from what became of them to an outcome. Pure.

A list that makes trouble is halved until the records that make it stand alone, so that a bad record takes no other
with it. So a function may be called more than once with a record: with its list, and with smaller lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from penstock.base.limits import (
    TRANSFORM_BATCH_BYTES_MAX,
    TRANSFORM_CALL_OUTPUT_BYTES_MAX,
    TRANSFORM_DEATHS_MAX,
    TRANSFORM_DETAIL_LENGTH_MAX,
    TRANSFORM_OUTPUT_BYTES_MAX,
    TRANSFORM_OUTPUT_GROWTH_MAX,
)

Reason = Literal["error", "invalid_result", "too_large", "deadline", "crash"]


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record that the transform did not take: its bytes as they came, without the newline; why; and the detail
    for people, up to `TRANSFORM_DETAIL_LENGTH_MAX` characters."""

    record: bytes
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class TransformOutcome:
    """What a transform made: NDJSON, each line ended by a newline, and the number of its records, in the order of
    the records that they were made of. Each record that went in was in a call that succeeded, or is `dead`."""

    ndjson: bytes
    records: int
    dead: list[DeadRecord]


@dataclass(frozen=True, slots=True)
class Call:
    """The function is to be called with these records, one a line, and may give so many bytes."""

    ndjson: bytes
    records: int
    output_bytes_max: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The call gave these records."""

    ndjson: bytes
    records: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The call raised, or gave what cannot be taken. Its process goes on."""

    reason: Literal["error", "invalid_result", "too_large"]
    detail: str


@dataclass(frozen=True, slots=True)
class Overdue:
    """The call took longer than it may, and was ended."""

    detail: str


@dataclass(frozen=True, slots=True)
class Died:
    """The process ended in the call."""

    detail: str


CallResult = Returned | Failed | Overdue | Died


@dataclass(frozen=True, slots=True)
class _Piece:
    records: list[bytes]
    #: A record alone whose process died once: it gets a second call, as something else may have killed the process.
    again: bool = False


def cut(ndjson: bytes, records_max: int, bytes_max: int = TRANSFORM_BATCH_BYTES_MAX) -> Iterator[list[bytes]]:
    """The lines, without newlines, in lists of up to `records_max` that are not longer than `bytes_max`, unless
    that is one record. Empty lines are no records."""
    records: list[bytes] = []
    size = start = 0
    while start < len(ndjson):
        end = ndjson.find(b"\n", start)
        end = len(ndjson) if end < 0 else end
        record = ndjson[start:end]
        start = end + 1
        if not record:
            continue
        if records and (len(records) == records_max or size + len(record) > bytes_max):
            yield records
            records, size = [], 0
        records.append(record)
        size += len(record) + 1
    if records:
        yield records


class TransformRun:
    """One run of a transform over NDJSON. Make each call that `next` gives, tell `on` what became of it, and take
    the `outcome` when there is no further one."""

    def __init__(self, ndjson: bytes, batch_records_max: int) -> None:
        self._lists = cut(ndjson, batch_records_max)
        #: Halves of a list in trouble, the next one last: results stay in the order of the records.
        self._halves: list[_Piece] = []
        self._piece: _Piece | None = None
        self._output_bytes_left = max(TRANSFORM_OUTPUT_BYTES_MAX, TRANSFORM_OUTPUT_GROWTH_MAX * len(ndjson))
        self._deaths = 0
        self._returned: list[bytes] = []
        self._records = 0
        self._dead: list[DeadRecord] = []

    def next(self) -> Call | None:
        assert self._piece is None, "the call before has no result yet"
        if self._halves:
            self._piece = self._halves.pop()
        else:
            records = next(self._lists, None)
            if records is None:
                return None
            self._piece = _Piece(records)
        records = self._piece.records
        output_bytes_max = min(TRANSFORM_CALL_OUTPUT_BYTES_MAX, self._output_bytes_left)
        return Call(b"\n".join(records), len(records), output_bytes_max)

    def on(self, result: CallResult) -> None:
        piece, self._piece = self._piece, None
        assert piece is not None, "there was no call"
        match result:
            case Returned(ndjson, records):
                self._returned.append(ndjson)
                self._records += records
                self._output_bytes_left -= len(ndjson)
            case Failed(reason, detail):
                self._halve(piece, reason, detail)
            case Overdue(detail):
                # No halves: that it is slow is seldom one record's fault, and each try costs a deadline.
                self._bury(piece, "deadline", detail)
            case Died(detail):
                self._deaths += 1
                if self._deaths > TRANSFORM_DEATHS_MAX:
                    self._bury(piece, "crash", detail)
                elif len(piece.records) == 1 and not piece.again:
                    self._halves.append(_Piece(piece.records, again=True))
                else:
                    self._halve(piece, "crash", detail)

    def outcome(self) -> TransformOutcome:
        return TransformOutcome(b"".join(self._returned), self._records, self._dead)

    def _halve(self, piece: _Piece, reason: Reason, detail: str) -> None:
        middle = len(piece.records) // 2
        if not middle:
            self._bury(piece, reason, detail)
            return
        self._halves.append(_Piece(piece.records[middle:]))
        self._halves.append(_Piece(piece.records[:middle]))

    def _bury(self, piece: _Piece, reason: Reason, detail: str) -> None:
        detail = bounded_detail(detail)
        self._dead.extend(DeadRecord(record, reason, detail) for record in piece.records)


def bounded_detail(detail: str) -> str:
    """At most `TRANSFORM_DETAIL_LENGTH_MAX` characters, with a sign that there was more."""
    if len(detail) <= TRANSFORM_DETAIL_LENGTH_MAX:
        return detail
    return detail[: TRANSFORM_DETAIL_LENGTH_MAX - 1] + "…"
