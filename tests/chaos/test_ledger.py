"""The judge is judged: each way in which files and ledger can disagree is noticed."""

from __future__ import annotations

import json

import pytest

from .ledger import Ledger, Outcome, Sent, Tally, record


def lines(client: int, *sequences: int) -> list[bytes]:
    return [json.dumps(record(client, sequence)).encode() for sequence in sequences]


def violations(sent: list[Sent], files: dict[str, list[bytes]]) -> list[str]:
    tally = Tally()
    for name, content in files.items():
        tally.add_file(name, content)
    return tally.check(Ledger(sent=sent))


ACKED = Sent(1, 0, 3, Outcome.ACKED)
REFUSED = Sent(1, 0, 3, Outcome.REFUSED)
UNKNOWN = Sent(1, 0, 3, Outcome.UNKNOWN)


@pytest.mark.parametrize(
    ("sent", "files"),
    [
        (ACKED, {"a": lines(1, 0, 1, 2)}),
        (ACKED, {"a": lines(1, 2, 0), "b": lines(1, 1)}),
        (REFUSED, {}),
        (UNKNOWN, {}),
        (UNKNOWN, {"a": lines(1, 0, 1, 2)}),
    ],
)
def test_what_is_allowed_passes(sent: Sent, files: dict[str, list[bytes]]) -> None:
    assert violations([sent], files) == []


@pytest.mark.parametrize(
    ("sent", "files", "complaint"),
    [
        (ACKED, {"a": lines(1, 0, 1)}, "acked record (1, 2) is in 0 files"),
        (ACKED, {"a": lines(1, 0, 1, 2), "b": lines(1, 1)}, "acked record (1, 1) is in 2 files"),
        (ACKED, {"a": lines(1, 0, 1, 2, 2)}, "acked record (1, 2) is in 2 files"),
        (REFUSED, {"a": lines(1, 1)}, "refused record (1, 1) is in 1 files"),
        (UNKNOWN, {"a": lines(1, 0, 1, 2), "b": lines(1, 0, 1, 2)}, "unknown record (1, 0) is in 2 files"),
        (UNKNOWN, {"a": lines(1, 0)}, "only a part of one request is there"),
        (ACKED, {"a": lines(1, 0, 1, 2, 3)}, "record (1, 3) was never sent"),
        (ACKED, {"a": [*lines(1, 0, 1, 2), b'{"cli']}, "is not a record"),
        (ACKED, {"a": [line.replace(b"page", b"pane") for line in lines(1, 0, 1, 2)]}, "is damaged"),
    ],
)
def test_what_is_not_allowed_is_named(sent: Sent, files: dict[str, list[bytes]], complaint: str) -> None:
    assert any(complaint in violation for violation in violations([sent], files))
