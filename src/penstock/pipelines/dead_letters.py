"""Records that could not be delivered as they should, as lines of dead-letter files. Pure.

One line a record: why, when, by which version of the pipeline, and the record itself as it came, so that it can be
sent again after a fix:

    {"reason":"error","detail":"KeyError: 'user'","transform":"clean","pipeline_version":3,"code_version":"1f…",
     "received_at":"2026-11-23T14:05:06.789Z","record":{…}}
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from penstock.base.clock import rfc3339
from penstock.base.limits import DEAD_DETAIL_LENGTH_MAX


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """`received_at` is when the first record of its file came. `transform` is empty if none was at fault."""

    reason: str
    detail: str
    pipeline_version: int
    received_at: str
    record: Raw
    transform: str = ""
    code_version: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DeadLetter)


def dead_letter_line(
    record: bytes,
    reason: str,
    detail: str,
    pipeline_version: int,
    received_ms: int,
    transform: str,
    code_version: str,
) -> bytes:
    """A line, with its newline."""
    letter = DeadLetter(
        reason=reason,
        detail=detail[:DEAD_DETAIL_LENGTH_MAX],
        pipeline_version=pipeline_version,
        received_at=rfc3339(received_ms),
        record=Raw(record),
        transform=transform,
        code_version=code_version,
    )
    return _encoder.encode(letter) + b"\n"


def read_dead_letters(content: bytes) -> Iterator[DeadLetter]:
    """Raises `msgspec.DecodeError` for what is no dead-letter file."""
    for line in content.split(b"\n"):
        if line:
            yield _decoder.decode(line)
