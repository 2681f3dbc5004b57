"""Records that were put: which leave together, when, and how many may wait. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from penstock.client.settings import ClientSettings


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that leave together; `first` is the number of the first since the buffer is there."""

    first: int
    records: list[bytes]
    bytes: int


class Buffer:
    """Numbered records, waiting, then taken, then settled. Times are elapsed ones."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        #: Each record and when it was put.
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._taken: dict[int, Batch] = {}
        self._taken_bytes = 0
        self._next = 0
        #: Records below this number are due, however young.
        self._due_below = 0

    def has_room(self, record: bytes) -> bool:
        """One record is always let in, however large."""
        used = self._waiting_bytes + self._taken_bytes
        return used == 0 or used + len(record) <= self._settings.buffer_bytes_max

    def add(self, record: bytes, now_ms: int) -> bool:
        """Whether whoever takes batches should look: there is a new time to wait for, or a full batch."""
        was_full = self.is_full()
        self._waiting.append((record, now_ms))
        self._waiting_bytes += len(record)
        self._next += 1
        return len(self._waiting) == 1 or (not was_full and self.is_full())

    def is_full(self) -> bool:
        """Whether what waits is a batch or more."""
        settings = self._settings
        return len(self._waiting) >= settings.batch_records_max or self._waiting_bytes >= settings.batch_bytes_max

    def make_due(self) -> int:
        """Let all that waits leave at once; gives the number that the next record will have."""
        self._due_below = self._next
        return self._next

    def wait_ms(self, now_ms: int) -> int | None:
        """How long until a batch is due, 0 if one is; None if nothing waits."""
        if not self._waiting:
            return None
        if self.is_full() or self._first_waiting < self._due_below:
            return 0
        return max(0, self._waiting[0][1] + self._settings.batch_ms_max - now_ms)

    def take(self) -> Batch:
        """The oldest records, as many as go into a batch; at least one must wait."""
        first, size = self._first_waiting, 0
        records: list[bytes] = []
        while self._waiting and len(records) < self._settings.batch_records_max:
            record = self._waiting[0][0]
            if records and size + len(record) > self._settings.batch_bytes_max:
                break
            self._waiting.popleft()
            records.append(record)
            size += len(record)
        batch = Batch(first, records, size)
        self._waiting_bytes -= size
        self._taken[first] = batch
        self._taken_bytes += size
        return batch

    def settle(self, batch: Batch) -> None:
        """It was sent, or will not be."""
        del self._taken[batch.first]
        self._taken_bytes -= batch.bytes

    @property
    def settled_below(self) -> int:
        """All records below this number are settled."""
        return min(self._first_waiting, *self._taken, self._next)

    def take_all(self) -> list[bytes]:
        """Empty it: all that is not settled, in order."""
        records = [record for first in sorted(self._taken) for record in self._taken[first].records]
        records += [record for record, _ in self._waiting]
        self._taken.clear()
        self._waiting.clear()
        self._taken_bytes = self._waiting_bytes = 0
        return records

    @property
    def _first_waiting(self) -> int:
        return self._next - len(self._waiting)
