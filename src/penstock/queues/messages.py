"""A storage shard's messages: one row each, numbered in the order in which they came.

A message's row is written once and never changed. Who has it, or had it, is kept apart (`deliveries.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.objects.sql import SystemSql
from penstock.queues.message import ContentType, Extra, Message, NewMessage
from penstock.queues.spans import Span, runs_of

TABLES = """
CREATE TABLE IF NOT EXISTS messages (
  sequence INTEGER PRIMARY KEY,
  sent_ms INTEGER NOT NULL,        -- never less than in the row before
  available_ms INTEGER NOT NULL,   -- later than sent_ms if the message was sent with a delay
  content_type INTEGER NOT NULL,
  body BLOB NOT NULL,
  extra BLOB                       -- Extra
) STRICT;
CREATE INDEX IF NOT EXISTS delayed ON messages (sequence) WHERE available_ms > sent_ms;
CREATE TABLE IF NOT EXISTS totals (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  messages INTEGER NOT NULL,
  bytes INTEGER NOT NULL,          -- of bodies
  last_sequence INTEGER NOT NULL,  -- ever given
  last_sent_ms INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (0, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
"""

_encode_extra = msgspec.msgpack.Encoder().encode
_decode_extra = msgspec.msgpack.Decoder(Extra).decode
_TYPES = tuple(ContentType)
_COLUMNS = "sequence, sent_ms, content_type, body, extra"


class Messages:
    """The rows, with their number and size in memory. Times are wall time, milliseconds since the Unix epoch."""

    def __init__(self, sql: SystemSql) -> None:
        self._sql = sql
        self.uid = ""
        self.count, self.size_bytes, self.last_sequence, self._last_sent_ms = sql.exec(
            "SELECT messages, bytes, last_sequence, last_sent_ms FROM totals"
        ).one()

    def append(self, messages: Sequence[NewMessage], delay_ms: int, now_ms: int) -> list[tuple[int, int]]:
        """Store messages; `delay_ms` is for those that say nothing of a delay. Gives the sequence numbers of those
        that are not available yet, each with when it will be."""
        sent_ms = max(now_ms, self._last_sent_ms)
        sequence, size = self.last_sequence, 0
        rows = []
        delayed = []
        for message in messages:
            sequence += 1
            delay = delay_ms if message.delay_ms is None else message.delay_ms
            if delay:
                delayed.append((sequence, sent_ms + delay))
            extra = None if message.extra is None else _encode_extra(message.extra)
            size += len(message.body)
            rows.append((sequence, sent_ms, sent_ms + delay, int(message.content_type), message.body, extra))
        self._sql.exec_many("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6)", rows)
        self.last_sequence, self._last_sent_ms = sequence, sent_ms
        self._count(len(rows), size)
        return delayed

    def read(self, first: int, last: int, attempts: int, limit: int) -> list[Message]:
        """Up to `limit` messages of a span, those that there still are."""
        rows = self._sql.exec(
            f"SELECT {_COLUMNS} FROM messages WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence LIMIT ?3",
            *(first, last, limit),
        )
        return [self._message(attempts, *row) for row in rows]

    def read_fresh(self, first: int, limit: int) -> list[Message]:
        """Up to `limit` messages from `first` on that were sent without a delay, for their first delivery."""
        rows = self._sql.exec(
            f"SELECT {_COLUMNS} FROM messages WHERE sequence >= ?1 AND available_ms <= sent_ms"
            " ORDER BY sequence LIMIT ?2",
            *(first, limit),
        )
        return [self._message(1, *row) for row in rows]

    def _message(
        self, attempts: int, sequence: int, sent_ms: int, content_type: int, body: bytes, extra: bytes | None
    ) -> Message:
        kept = None if extra is None else _decode_extra(extra)
        id = f"{self.uid}{sequence:016x}"
        if kept is not None:
            id, sent_ms = kept.id or id, kept.sent_ms or sent_ms
        return Message(sequence, id, sent_ms, attempts, _TYPES[content_type], body, kept)

    def delete(self, spans: Sequence[Span]) -> int:
        """Delete the messages of these spans; gives how many there were."""
        count = size = 0
        for first, last in spans:
            rows = self._sql.exec(
                "DELETE FROM messages WHERE sequence BETWEEN ?1 AND ?2 RETURNING length(body)", first, last
            )
            for row in rows:
                count += 1
                size += row[0]
        if count:
            self._count(-count, -size)
        return count

    def _count(self, messages: int, size: int) -> None:
        self.count += messages
        self.size_bytes += size
        self._sql.exec(
            "UPDATE totals SET messages = ?1, bytes = ?2, last_sequence = ?3, last_sent_ms = ?4",
            *(self.count, self.size_bytes, self.last_sequence, self._last_sent_ms),
        )

    # -- where they are -----------------------------------------------------------------------------------

    def first_sequence(self) -> int:
        """Of the oldest message; of the next one to come if there is none."""
        first: int | None = self._sql.exec("SELECT min(sequence) FROM messages").one()[0]
        return self.last_sequence + 1 if first is None else first

    def oldest_ms(self) -> int | None:
        """When the oldest message was sent."""
        row = self._sql.exec("SELECT sent_ms FROM messages ORDER BY sequence LIMIT 1").first()
        return row[0] if row else None

    def first_fresh_ms(self, first: int) -> int | None:
        """When the first message from `first` on was sent that has no delay."""
        row = self._sql.exec(
            "SELECT sent_ms FROM messages WHERE sequence >= ?1 AND available_ms <= sent_ms"
            " ORDER BY sequence LIMIT 1",
            first,
        ).first()
        return row[0] if row else None

    def delayed_from(self, first: int) -> int:
        """How many messages from `first` on were sent with a delay."""
        count: int = self._sql.exec(
            "SELECT count(*) FROM messages WHERE sequence >= ?1 AND available_ms > sent_ms", first
        ).one()[0]
        return count

    def delayed(self) -> list[tuple[int, int]]:
        """All that were sent with a delay: sequence number and when each is, or was, available."""
        return self._sql.exec("SELECT sequence, available_ms FROM messages WHERE available_ms > sent_ms").to_list()

    def slice_of(self, after: int, last: int, limit: int) -> tuple[list[Span], int]:
        """Spans of up to `limit` messages after number `after`, up to `last`; and the last number looked at, which
        is `last` when there are no more."""
        rows = self._sql.exec(
            "SELECT sequence FROM messages WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3",
            *(after, last, limit),
        )
        sequences = [row[0] for row in rows]
        return runs_of(sequences), last if len(sequences) < limit else sequences[-1]

    def expired(self, after: int, before_ms: int, limit: int) -> tuple[list[Span], int | None]:
        """Spans of up to `limit` messages after number `after` that were sent, and available, before `before_ms`;
        and the last number looked at, None if all were."""
        rows = self._sql.exec(
            "SELECT sequence, available_ms FROM messages WHERE sequence > ?1 AND sent_ms < ?2"
            " ORDER BY sequence LIMIT ?3",
            *(after, before_ms, limit),
        ).to_list()
        spans = runs_of(sequence for sequence, available_ms in rows if available_ms < before_ms)
        return spans, None if len(rows) < limit else rows[-1][0]
