"""A shard's rows: each the records of one request, numbered without gaps.

Each row carries running totals of records and bytes, so that the size of any range is a subtraction.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from isal import isal_zlib

from penstock.objects.sql import SystemSql
from penstock.pipelines.rolling import Pending, Rolling, partition_end_ms

TABLES = """
CREATE TABLE IF NOT EXISTS batches (
  sequence INTEGER PRIMARY KEY,
  end_record INTEGER NOT NULL,   -- records of the shard up to and with this row
  end_byte INTEGER NOT NULL,     -- bytes likewise
  received_ms INTEGER NOT NULL,  -- never less than in the row before, if that is not in a file yet
  crc32 INTEGER NOT NULL,
  body BLOB NOT NULL             -- NDJSON
) STRICT;
CREATE TABLE IF NOT EXISTS freed (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  sequence INTEGER NOT NULL, record INTEGER NOT NULL, byte INTEGER NOT NULL
) STRICT;
INSERT INTO freed VALUES (0, 0, 0, 0) ON CONFLICT DO NOTHING;
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two rows: the last row before it, and the totals up to there."""

    sequence: int
    record: int
    byte: int


class Buffer:
    """The rows, from left to right:

    freed          | sealed              | pending           | next row
    gone             a file is promised    waiting for a file
    """

    def __init__(self, sql: SystemSql, sealed_sequence: int | None) -> None:
        """`sealed_sequence` is the last row that a file is promised for, None if there never was one."""
        self._sql = sql
        self.freed = Mark(*sql.exec("SELECT sequence, record, byte FROM freed").one())
        self.sealed = self.freed if sealed_sequence is None else self.mark_after(sealed_sequence)
        last: int | None = sql.exec("SELECT max(sequence) FROM batches").one()[0]
        self.end = self.freed if last is None else self.mark_after(last)
        #: When the last row came, and the first one that waits for a file; wall time.
        self.last_received_ms = self.received_ms(self.end.sequence) or 0
        self.first_pending_ms = self.received_ms(self.sealed.sequence + 1)
        #: When the first row came that there still is.
        self.oldest_ms = self.received_ms(self.freed.sequence + 1)

    @property
    def size_bytes(self) -> int:
        """Of all rows there are."""
        return self.end.byte - self.freed.byte

    @property
    def pending(self) -> Pending | None:
        """What waits for a file, if anything does."""
        if self.first_pending_ms is None:
            return None
        return Pending(
            self.first_pending_ms, self.end.record - self.sealed.record, self.end.byte - self.sealed.byte
        )

    def mark_after(self, sequence: int) -> Mark:
        row = self._sql.exec(
            "SELECT sequence, end_record, end_byte FROM batches WHERE sequence = ?1", sequence
        ).first()
        return Mark(*row) if row else self.freed

    def received_ms(self, sequence: int) -> int | None:
        row = self._sql.exec("SELECT received_ms FROM batches WHERE sequence = ?1", sequence).first()
        return row[0] if row else None

    def append(self, body: bytes, records: int, now_ms: int) -> None:
        end = Mark(self.end.sequence + 1, self.end.record + records, self.end.byte + len(body))
        self._sql.exec(
            "INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            end.sequence,
            end.record,
            end.byte,
            now_ms,
            isal_zlib.crc32(body),
            body,
        )
        self.end = end
        self.last_received_ms = now_ms
        if self.first_pending_ms is None:
            self.first_pending_ms = now_ms
            if self.oldest_ms is None:
                self.oldest_ms = now_ms

    def last_row_of_next_file(self, rolling: Rolling) -> int:
        """The first pending row with which the file is full, or the last one of its partition. Totals and times
        only grow from row to row, so each is found by bisection, at some twenty look-ups for a million rows."""
        assert self.first_pending_ms is not None
        first, last = self.sealed.sequence + 1, self.end.sequence

        def first_row(column: str, at_least: int) -> int:
            sql = f"SELECT {column} FROM batches WHERE sequence = ?1"
            rows = range(first, last + 1)
            return first + bisect_left(rows, at_least, key=lambda row: self._sql.exec(sql, row).one()[0])

        ends = [
            first_row("end_byte", self.sealed.byte + rolling.bytes_max),
            first_row("end_record", self.sealed.record + rolling.records_max),
            last,
        ]
        if rolling.partition_ms is not None:
            end_ms = partition_end_ms(self.first_pending_ms, rolling.partition_ms)
            ends.append(first_row("received_ms", end_ms) - 1)
        return min(ends)

    def seal(self, sequence: int) -> None:
        """A file is promised for the rows up to this one."""
        self.sealed = self.mark_after(sequence)
        self.first_pending_ms = self.received_ms(sequence + 1)

    def free(self, sequence: int) -> None:
        """Delete the rows up to this one."""
        freed = self.mark_after(sequence)
        self._sql.exec("DELETE FROM batches WHERE sequence <= ?1", freed.sequence)
        self._sql.exec(
            "UPDATE freed SET sequence = ?1, record = ?2, byte = ?3", freed.sequence, freed.record, freed.byte
        )
        self.freed = freed
        self.oldest_ms = self.received_ms(freed.sequence + 1)
