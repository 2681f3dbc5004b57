"""What was sent and what became of it, and whether what is in the files agrees.

A record is numbered by (client, sequence). A client without an Idempotency-Key never sends one twice: when its
request was lost it goes on with new numbers. One with a key sends the same request until it is acknowledged, and
what counts is the best answer that it ever got. So each number has one outcome:

    acked     answered with 200                             exactly once in the files
    refused   answered with 4xx or 507, or never sent       never there
    unknown   503, another 5xx, lost connection, timeout    at most once; a request is there whole or not at all

(503 is not a refusal: the executor that hosts the shard may have died after it stored the records and before it
could tell the executor that had taken the request.)
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime


class Outcome(enum.Enum):
    ACKED = "acked"
    REFUSED = "refused"
    UNKNOWN = "unknown"


#: How often a record of this outcome may be in the files.
ALLOWED = {Outcome.ACKED: (1,), Outcome.REFUSED: (0,), Outcome.UNKNOWN: (0, 1)}


_FIRST_DAY_S = 1_767_225_600  # 2026-01-01
_HOURS = 3


def record(client: int, sequence: int) -> dict[str, object]:
    """The record of this number. All of it follows from the number, so a damaged one shows."""
    note = f"{(client * 1_000_003 + sequence) * 0x9E3779B97F4A7C15 % 2**64:016x}"
    at_s = _FIRST_DAY_S + 3600 * (sequence % _HOURS) + client
    return {"client": client, "sequence": sequence, "at": at_s, "event": "page_view", "note": note * 7}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request's records: `count` numbers from `first`."""

    client: int
    first: int
    count: int
    outcome: Outcome
    #: Seconds since 1970, to find the request's time in the server's log.
    sent_at: float = 0.0

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.sent_at, UTC)
        last = self.first + self.count - 1
        return (
            f"{self.outcome.value} request of client {self.client}, {self.first} to {last}, sent {at:%H:%M:%S.%f}"
        )

    def body(self) -> bytes:
        return request_body(self.client, self.first, self.count)


def request_body(client: int, first: int, count: int) -> bytes:
    return json.dumps([record(client, first + i) for i in range(count)]).encode()


@dataclass
class Ledger:
    sent: list[Sent] = field(default_factory=list)
    #: Answers by status, and "lost", "timeout", "not sent".
    answers: Counter[str] = field(default_factory=Counter)
    #: What a client must not see.
    violations: list[str] = field(default_factory=list)

    def add(self, sent: Sent, answer: str) -> None:
        self.sent.append(sent)
        self.answers[answer] += 1

    def records(self, outcome: Outcome) -> int:
        return sum(sent.count for sent in self.sent if sent.outcome is outcome)

    def clear(self) -> None:
        """Forget what was sent and audited."""
        self.sent.clear()


class Tally:
    """How often each record was found in files, and where first."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], list[str]] = {}
        self.violations: list[str] = []

    def add_file(self, name: str, lines: Iterable[bytes]) -> None:
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
                key = (found["client"], found["sequence"])
            except (ValueError, KeyError, TypeError):
                self.violations.append(f"{name} line {number} is not a record: {line[:100]!r}")
                continue
            if found != record(*key):
                self.violations.append(f"{name} line {number} is damaged: {line[:300]!r}")
            self._found.setdefault(key, []).append(name)

    def clear(self) -> None:
        """Forget what was audited. Whatever of it comes once more is of no request that the ledger knows."""
        self._found.clear()

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def has_all(self, sent: Sent) -> bool:
        return all((sent.client, sent.first + i) in self._found for i in range(sent.count))

    def check(self, ledger: Ledger) -> list[str]:
        """Everything in which files and ledger disagree."""
        left = dict(self._found)
        wrong = [*self.violations]
        for sent in ledger.sent:
            wrong += self._check_request(sent, left)
        wrong += [
            f"record {key} was never sent, or in a round before this one, but is in {files}"
            for key, files in left.items()
        ]
        return wrong

    def _check_request(self, sent: Sent, left: dict[tuple[int, int], list[str]]) -> Iterator[str]:
        times = []
        for sequence in range(sent.first, sent.first + sent.count):
            files = left.pop((sent.client, sequence), [])
            times.append(len(files))
            if len(files) not in ALLOWED[sent.outcome]:
                what = f"{sent.outcome.value} record ({sent.client}, {sequence})"
                yield f"{what} is in {len(files)} files: {files} ({sent})"
        if sent.outcome is Outcome.UNKNOWN and 0 < sum(map(bool, times)) < sent.count:
            yield f"only a part of one request is there: {sent}"
