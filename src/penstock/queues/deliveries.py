"""What one consumer had, has, and has to get of a storage shard's messages.

    done                 | leased or waiting, in spans | fresh: never leased
    sequence < cursor      sequence < cursor             sequence >= cursor

A message is leased when it is given to the consumer, with a deadline; it waits when it was sent with a delay, or is
to be delivered again. Whatever is neither, and below the cursor, the consumer is done with. So a batch of fresh
messages costs one span, from its lease to its acknowledgement, and no message's row is ever rewritten.

The attempt is counted when the lease is written, which is durable before the message leaves the shard: a message
that kills whoever gets it has used up its attempts like any other.

Deadlines hold by a clock that never jumps. What is stored of them, wall time, is for the next start of the shard,
which lets no lease last longer than it was meant to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush

from msgspec import Struct

from penstock.objects.sql import SystemSql
from penstock.queues.message import Message
from penstock.queues.messages import Messages
from penstock.queues.settings import ConsumerSettings
from penstock.queues.settlement import MessageRef, Settlement, Verdict
from penstock.queues.spans import Span, runs_of, without

TABLES = """
CREATE TABLE IF NOT EXISTS consumers (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  cursor INTEGER NOT NULL          -- every message from here on is fresh, unless it waits
) STRICT;
CREATE TABLE IF NOT EXISTS leases (
  id INTEGER PRIMARY KEY,          -- random: nobody who had one can mean another
  consumer INTEGER NOT NULL,
  holder TEXT NOT NULL,
  deadline_ms INTEGER NOT NULL,    -- wall time
  lease_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS leased (
  consumer INTEGER NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  lease INTEGER NOT NULL,
  PRIMARY KEY (consumer, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leased_by_lease ON leased (lease);
CREATE TABLE IF NOT EXISTS waiting (
  consumer INTEGER NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  attempts INTEGER NOT NULL,       -- made so far
  available_ms INTEGER NOT NULL,   -- wall time
  PRIMARY KEY (consumer, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_by_time ON waiting (consumer, available_ms);
CREATE TABLE IF NOT EXISTS dead (
  consumer INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  reason TEXT NOT NULL,
  detail TEXT NOT NULL,
  dead_ms INTEGER NOT NULL,
  PRIMARY KEY (consumer, sequence)
) STRICT, WITHOUT ROWID;
"""

#: What a dead letter says of its reason.
_DETAIL_LENGTH_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Taken:
    """A lease, and what is in it."""

    lease: int
    deadline_ms: int
    messages: list[Message]
    redelivered: int


@dataclass(slots=True)
class Settled:
    """What became of messages."""

    acknowledged: int = 0
    retried: int = 0
    #: By reason.
    dead: Counter[str] = field(default_factory=Counter)


class HeldLease(Struct, frozen=True):
    """A lease that a consumer shard has out. `deadline_ms` is wall time."""

    lease: int
    deadline_ms: int
    count: int


class DeadMessage(Struct, frozen=True):
    sequence: int
    attempts: int
    reason: str
    detail: str
    dead_ms: int


class Deliveries:
    """One consumer's. Every method that may write says when it is: `now_ms` wall time, `elapsed_ms` of the clock
    that never jumps."""

    def __init__(
        self,
        sql: SystemSql,
        messages: Messages,
        number: int,
        id: str,
        settings: ConsumerSettings,
        *,
        now_ms: int,
        elapsed_ms: int,
    ) -> None:
        self._sql = sql
        self._messages = messages
        self.number = number
        self.id = id
        self.settings = settings
        self.cursor: int = sql.exec("SELECT cursor FROM consumers WHERE number = ?1", number).one()[0]
        #: Messages up to this one are purged: no span of them is to be delivered again.
        self.purged_to = 0
        self._deadlines: dict[int, int] = {}
        self._by_deadline: list[tuple[int, int]] = []
        for lease, deadline_ms, lease_ms in sql.exec(
            "SELECT id, deadline_ms, lease_ms FROM leases WHERE consumer = ?1", number
        ):
            self._note_deadline(lease, elapsed_ms + min(max(deadline_ms - now_ms, 0), lease_ms))
        self.recount()

    @classmethod
    def add(cls, sql: SystemSql, messages: Messages, id: str) -> int:
        """A new consumer, for which all messages that there are are to be delivered. Gives its number."""
        number: int = sql.exec("SELECT coalesce(max(number), 0) + 1 FROM consumers").one()[0]
        sql.exec("INSERT INTO consumers VALUES (?1, ?2, ?3)", number, id, messages.first_sequence())
        sql.exec(
            "INSERT INTO waiting SELECT ?1, sequence, sequence, 0, available_ms FROM messages"
            " WHERE available_ms > sent_ms",
            number,
        )
        return number

    def remove(self) -> None:
        """Forget the consumer."""
        for table in ("leased", "waiting", "dead", "leases"):
            self._sql.exec(f"DELETE FROM {table} WHERE consumer = ?1", self.number)
        self._sql.exec("DELETE FROM consumers WHERE number = ?1", self.number)

    # -- what is due --------------------------------------------------------------------------------------

    def recount(self) -> None:
        """Look again at what is due, after messages were deleted."""
        self.cursor = max(self.cursor, min(self._messages.first_sequence(), self._messages.last_sequence + 1))
        self._fresh = self._messages.last_sequence - self.cursor + 1 - self._messages.delayed_from(self.cursor)
        #: When the first fresh message was sent; None: not looked up yet.
        self._fresh_ms: int | None = None
        self._note_waiting()

    def _note_waiting(self) -> None:
        #: When the first waiting span is available; None if there is none.
        self._waiting_ms: int | None = self._sql.exec(
            "SELECT min(available_ms) FROM waiting WHERE consumer = ?1", self.number
        ).one()[0]

    def arrived(self, count: int, delayed: list[tuple[int, int]], now_ms: int) -> None:
        """`count` messages were stored just now, of which these wait."""
        for sequence, available_ms in delayed:
            self._wait(sequence, sequence, 0, available_ms)
        if count > len(delayed):
            if self._fresh <= 0:
                self._fresh, self._fresh_ms = 0, now_ms
            self._fresh += count - len(delayed)

    def due_ms(self, messages_max: int, full: bool, now_ms: int) -> int | None:
        """When to look again whether a batch of up to `messages_max` is due, wall time; it may have passed. None:
        when more comes. `full`: a batch waits to be full, up to the consumer's `max_wait_time_ms`."""
        waiting_ms = self._waiting_ms
        if waiting_ms is not None and waiting_ms > now_ms:
            later_ms, waiting_ms = waiting_ms, None
        else:
            later_ms = None
        firsts = [at_ms for at_ms in (waiting_ms, self._first_fresh_ms()) if at_ms is not None]
        if not firsts:
            return later_ms
        if not full or self._fresh >= messages_max:
            return now_ms
        due_ms = min(firsts) + self.settings.max_wait_time_ms
        return due_ms if later_ms is None else min(due_ms, later_ms)

    def _first_fresh_ms(self) -> int | None:
        if self._fresh <= 0:
            return None
        if self._fresh_ms is None:
            self._fresh_ms = self._messages.first_fresh_ms(self.cursor)
        return self._fresh_ms

    def next_end_ms(self) -> int | None:
        """When the first lease ends, of the clock that never jumps."""
        heap = self._by_deadline
        while heap and self._deadlines.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def has(self, lease: int) -> bool:
        return lease in self._deadlines

    @property
    def leases_out(self) -> int:
        return len(self._deadlines)

    @property
    def fresh(self) -> int:
        fresh: int = max(0, self._fresh)
        return fresh

    # -- leasing ------------------------------------------------------------------------------------------

    def take(
        self,
        lease: int,
        holder: str,
        messages_max: int,
        lease_ms: int,
        full: bool,
        *,
        now_ms: int,
        elapsed_ms: int,
        waiting_too: bool = True,
    ) -> Taken | None:
        """Lease the next batch as `lease`, if one is due. `waiting_too`: also what waits."""
        retries = self._due_spans(messages_max, now_ms) if waiting_too else []
        count = sum(last - first + 1 for first, last, _ in retries)
        if not count and self._fresh <= 0:
            return None
        if full and count + self._fresh < messages_max:
            due_ms = self.due_ms(messages_max, full, now_ms)
            if due_ms is not None and now_ms < due_ms:
                return None
        # While there is fresh work, what is tried again gets half of a batch: it may never succeed.
        share = messages_max if self._fresh <= 0 else max(1, messages_max // 2, messages_max - self._fresh)
        batch: list[Message] = []
        spans: list[tuple[int, int, int]] = []
        for first, last, attempts in retries:
            if len(batch) >= share:
                break
            last = min(last, first + share - len(batch) - 1)
            self._carve("waiting", first, last)
            found = self._messages.read(first, last, attempts + 1, share)
            if found:
                batch += found
                spans.append((first, last, attempts + 1))
        if retries:
            self._note_waiting()
        redelivered = sum(1 for message in batch if message.attempts > 1)
        if self._fresh > 0 and len(batch) < messages_max:
            batch += self._take_fresh(messages_max - len(batch), spans)
        if not batch:
            return None
        deadline_ms = now_ms + lease_ms
        self._sql.exec(
            "INSERT INTO leases VALUES (?1, ?2, ?3, ?4, ?5)", lease, self.number, holder, deadline_ms, lease_ms
        )
        for span in spans:
            self._sql.exec("INSERT INTO leased VALUES (?1, ?2, ?3, ?4, ?5)", self.number, *span, lease)
        self._note_deadline(lease, elapsed_ms + lease_ms)
        return Taken(lease, deadline_ms, batch, redelivered)

    def _due_spans(self, limit: int, now_ms: int) -> list[tuple[int, int, int]]:
        if self._waiting_ms is None or self._waiting_ms > now_ms:
            return []
        return self._sql.exec(
            "SELECT first, last, attempts FROM waiting WHERE consumer = ?1 AND available_ms <= ?2"
            " ORDER BY available_ms LIMIT ?3",
            *(self.number, now_ms, limit),
        ).to_list()

    def _take_fresh(self, limit: int, spans: list[tuple[int, int, int]]) -> list[Message]:
        found = self._messages.read_fresh(self.cursor, limit)
        spans += [(first, last, 1) for first, last in runs_of(message.sequence for message in found)]
        if len(found) < limit:
            self._fresh = 0
            self._set_cursor(self._messages.last_sequence + 1)
        else:
            self._fresh -= len(found)
            self._set_cursor(found[-1].sequence + 1)
        return found

    def _set_cursor(self, cursor: int) -> None:
        self.cursor = cursor
        self._fresh_ms = None
        self._sql.exec("UPDATE consumers SET cursor = ?1 WHERE number = ?2", cursor, self.number)

    def _note_deadline(self, lease: int, at_ms: int) -> None:
        self._deadlines[lease] = at_ms
        heappush(self._by_deadline, (at_ms, lease))

    def extend(self, leases: list[int], lease_ms: int, *, now_ms: int, elapsed_ms: int) -> list[int]:
        """Let these leases last `lease_ms` from now on; gives those that there still are."""
        known = [lease for lease in leases if lease in self._deadlines]
        for lease in known:
            self._sql.exec(
                "UPDATE leases SET deadline_ms = ?1, lease_ms = ?2 WHERE id = ?3",
                now_ms + lease_ms,
                lease_ms,
                lease,
            )
            self._note_deadline(lease, elapsed_ms + lease_ms)
        return known

    def held(self, holder: str) -> list[HeldLease]:
        rows = self._sql.exec(
            "SELECT id, deadline_ms,"
            " (SELECT coalesce(sum(last - first + 1), 0) FROM leased WHERE lease = leases.id)"
            " FROM leases WHERE consumer = ?1 AND holder = ?2 ORDER BY id",
            *(self.number, holder),
        )
        return [HeldLease(*row) for row in rows]

    # -- what becomes of what was leased ------------------------------------------------------------------

    def settle(self, settlement: Settlement, settled: Settled, now_ms: int) -> list[Span]:
        """Do what the consumer says of a lease, unless there is no such lease any more. Gives what it is done
        with."""
        spans = self._end_lease(settlement.lease)
        rest = Verdict(0, settlement.rest_retry, settlement.rest_delay_ms, settlement.detail)
        reason = "handler_failed" if settlement.failed else "retry_asked"
        verdicts = {verdict.sequence: verdict for verdict in reversed(settlement.verdicts)}
        done: list[Span] = []
        for first, last, attempts in spans:
            said = sorted(sequence for sequence in verdicts if first <= sequence <= last) if verdicts else []
            for low, high in without([(first, last)], runs_of(said)):
                self._judge((low, high), attempts, rest, reason, done, settled, now_ms)
            for sequence in said:
                self._judge((sequence, sequence), attempts, verdicts[sequence], reason, done, settled, now_ms)
        return done

    def _judge(
        self,
        span: Span,
        attempts: int,
        verdict: Verdict,
        reason: str,
        done: list[Span],
        settled: Settled,
        now_ms: int,
    ) -> None:
        if verdict.retry:
            delay_ms = self.settings.retry_delay_s * 1000 if verdict.delay_ms is None else verdict.delay_ms
            done += self._again(span, attempts, now_ms + delay_ms, reason, verdict.detail, settled, now_ms)
        else:
            done.append(span)

    def acknowledge(self, sequences: list[int]) -> list[Span]:
        """The consumer is done with these, whoever of it has them now. Gives those that were not done before."""
        done: list[Span] = []
        for first, last in runs_of(sequences):
            for table in ("leased", "waiting"):
                done += [(low, high) for low, high, attempts in self._carve(table, first, last) if attempts]
            done += runs_of(
                row[0]
                for row in self._sql.exec(
                    "DELETE FROM dead WHERE consumer = ?1 AND sequence BETWEEN ?2 AND ?3 RETURNING sequence",
                    *(self.number, first, last),
                )
            )
        self._note_waiting()
        return done

    def retry(
        self, ref: MessageRef, delay_ms: int | None, settled: Settled, now_ms: int
    ) -> tuple[bool, list[Span]]:
        """Deliver a message again, if it is leased by this delivery of it: whether it is; and what is done with."""
        row = self._sql.exec(
            "SELECT last, attempts FROM leased WHERE consumer = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
            *(self.number, ref.sequence),
        ).first()
        if row is None or row[0] < ref.sequence or row[1] != ref.attempts:
            return False, []
        self._carve("leased", ref.sequence, ref.sequence)
        if delay_ms is None:
            delay_ms = self.settings.retry_delay_s * 1000
        span = (ref.sequence, ref.sequence)
        return True, self._again(span, ref.attempts, now_ms + delay_ms, "retry_asked", "", settled, now_ms)

    def end_leases(self, settled: Settled, *, now_ms: int, elapsed_ms: int) -> tuple[int, list[Span]]:
        """End the leases whose time is over: how many, and what is done with."""
        ended = 0
        done: list[Span] = []
        while (end_ms := self.next_end_ms()) is not None and end_ms <= elapsed_ms:
            lease = self._by_deadline[0][1]
            ended += 1
            for first, last, attempts in self._end_lease(lease):
                done += self._again((first, last), attempts, now_ms, "lease_ended", "", settled, now_ms)
        return ended, done

    def release(self, leases: list[int], now_ms: int) -> None:
        """These were not delivered: they are at once available again, and the attempt does not count."""
        for lease in leases:
            for first, last, attempts in self._end_lease(lease):
                self._wait(first, last, attempts - 1, now_ms)

    def _end_lease(self, lease: int) -> list[tuple[int, int, int]]:
        """Forget a lease; gives its spans with their attempts."""
        if self._deadlines.pop(lease, None) is None:
            return []
        spans = self._sql.exec(
            "DELETE FROM leased WHERE lease = ?1 RETURNING first, last, attempts", lease
        ).to_list()
        self._sql.exec("DELETE FROM leases WHERE id = ?1", lease)
        return spans

    def _again(
        self,
        span: Span,
        attempts: int,
        at_ms: int,
        reason: str,
        detail: str,
        settled: Settled,
        now_ms: int,
    ) -> list[Span]:
        """Deliver a span's messages again from `at_ms` on, unless they have had their attempts: then they are dead.
        Gives what is purged, and so done with."""
        first, last = span
        purged: list[Span] = []
        if first <= self.purged_to:
            purged = [(first, min(last, self.purged_to))]
            first = self.purged_to + 1
        if first > last:
            return purged
        if attempts <= self.settings.max_retries:
            self._wait(first, last, attempts, at_ms)
            settled.retried += last - first + 1
            return purged
        dead = self._sql.exec(
            "INSERT INTO dead SELECT ?1, sequence, ?2, ?3, ?4, ?5 FROM messages WHERE sequence BETWEEN ?6 AND ?7"
            " RETURNING 1",
            *(self.number, attempts, reason, detail[:_DETAIL_LENGTH_MAX], now_ms, first, last),
        ).to_list()
        settled.dead[reason] += len(dead)
        return purged

    def _wait(self, first: int, last: int, attempts: int, at_ms: int) -> None:
        self._sql.exec("INSERT INTO waiting VALUES (?1, ?2, ?3, ?4, ?5)", self.number, first, last, attempts, at_ms)
        if self._waiting_ms is None or at_ms < self._waiting_ms:
            self._waiting_ms = at_ms

    # -- dead ---------------------------------------------------------------------------------------------

    def dead(self, limit: int) -> list[DeadMessage]:
        """Messages that have had their attempts, and wait to be moved elsewhere."""
        rows = self._sql.exec(
            "SELECT sequence, attempts, reason, detail, dead_ms FROM dead WHERE consumer = ?1"
            " ORDER BY sequence LIMIT ?2",
            *(self.number, limit),
        )
        return [DeadMessage(*row) for row in rows]

    def bury(self, sequences: list[int]) -> list[Span]:
        """They have been moved. Gives those that were still dead here."""
        buried = []
        for first, last in runs_of(sequences):
            buried += self._sql.exec(
                "DELETE FROM dead WHERE consumer = ?1 AND sequence BETWEEN ?2 AND ?3 RETURNING sequence",
                *(self.number, first, last),
            ).to_list()
        return runs_of(row[0] for row in buried)

    # -- spans --------------------------------------------------------------------------------------------

    def not_needed(self, spans: list[Span]) -> list[Span]:
        """Those of `spans`, in order, whose messages this consumer is done with."""
        spans = [(first, min(last, self.cursor - 1)) for first, last in spans if first < self.cursor]
        for first, last in spans:
            for table in ("leased", "waiting"):
                spans = without(spans, [row[:2] for row in self._overlapping(table, first, last)])
            rows = self._sql.exec(
                "SELECT sequence FROM dead WHERE consumer = ?1 AND sequence BETWEEN ?2 AND ?3",
                *(self.number, first, last),
            )
            spans = without(spans, runs_of(row[0] for row in rows))
        return spans

    def kept_through_purge(self, spans: list[Span]) -> list[Span]:
        """Those of `spans` that this consumer has right now, or that are dead."""
        kept: list[Span] = []
        for first, last in spans:
            held = [(max(first, row[0]), min(last, row[1])) for row in self._overlapping("leased", first, last)]
            rows = self._sql.exec(
                "SELECT sequence FROM dead WHERE consumer = ?1 AND sequence BETWEEN ?2 AND ?3",
                *(self.number, first, last),
            )
            kept += held + runs_of(row[0] for row in rows)
        return kept

    def purge_waiting(self, limit: int) -> int:
        """Forget up to `limit` spans that wait and are purged; gives how many."""
        gone = self._sql.exec(
            "DELETE FROM waiting WHERE consumer = ?1 AND first IN"
            " (SELECT first FROM waiting WHERE consumer = ?1 AND first <= ?2 ORDER BY first LIMIT ?3)"
            " RETURNING first",
            *(self.number, self.purged_to, limit),
        ).to_list()
        if not gone:
            self._note_waiting()
        return len(gone)

    def purge(self, to: int) -> None:
        """Deliver no message up to this one any more."""
        self.purged_to = to
        if self.cursor <= to:
            self._set_cursor(to + 1)
        self.recount()

    def _overlapping(self, table: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """Spans of this consumer with a number from `first` to `last`. As none of a table overlap, only the one
        that begins last before `first` can reach into it."""
        rows = self._sql.exec(
            f"SELECT first, last, attempts FROM {table} WHERE consumer = ?1 AND first <= ?3 AND first >= coalesce("
            f"(SELECT max(first) FROM {table} WHERE consumer = ?1 AND first <= ?2), ?2) ORDER BY first",
            *(self.number, first, last),
        )
        return [row for row in rows if row[1] >= first]

    def _carve(self, table: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """Take the numbers from `first` to `last` out of a table's spans; gives what was there of them."""
        rest = "lease" if table == "leased" else "available_ms"
        taken: list[tuple[int, int, int]] = []
        for low, high, attempts in self._overlapping(table, first, last):
            more = self._sql.exec(
                f"DELETE FROM {table} WHERE consumer = ?1 AND first = ?2 RETURNING {rest}", self.number, low
            ).one()[0]
            for left in without([(low, high)], [(first, last)]):
                self._sql.exec(
                    f"INSERT INTO {table} VALUES (?1, ?2, ?3, ?4, ?5)", self.number, *left, attempts, more
                )
            if table == "leased" and low >= first and high <= last:
                self._forget_if_empty(more)
            taken.append((max(low, first), min(high, last), attempts))
        return taken

    def _forget_if_empty(self, lease: int) -> None:
        if self._sql.exec("SELECT 1 FROM leased WHERE lease = ?1 LIMIT 1", lease).first() is None:
            self._sql.exec("DELETE FROM leases WHERE id = ?1", lease)
            self._deadlines.pop(lease, None)
