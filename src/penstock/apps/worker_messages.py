"""What an executor and its worker say to each other: frames of msgpack over the worker's standard input and output.

A frame is 4 bytes with the length of what follows, big-endian, and that. The executor sends one `Start`, and then
`Job`s, each after the answer to the one before.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from penstock.apps.source import AppSource

HEADER_BYTES = 4


class Start(Struct, frozen=True):
    """Import the application, with this `sys.path`. `memory_bytes_max` 0 is no limit."""

    source: AppSource
    path: list[str]
    memory_bytes_max: int


class Started(Struct, frozen=True, tag="started"):
    """The worker is ready for jobs; `transforms` are those it knows."""

    transforms: list[str]


class NotStarted(Struct, frozen=True, tag="not_started"):
    """The application cannot be imported; `problem` holds the traceback's lines that are the user's."""

    problem: str


class Job(Struct, frozen=True):
    """Call a transform with these records."""

    transform: str
    ndjson: bytes
    deadline_ms: int
    output_bytes_max: int


class Done(Struct, frozen=True, tag="done"):
    """What it returned."""

    ndjson: bytes
    records: int


class NotDone(Struct, frozen=True, tag="not_done"):
    """It raised, or returned what cannot be taken."""

    reason: Literal["error", "invalid_result", "too_large"]
    detail: str


Greeting = Started | NotStarted
Answer = Done | NotDone

_encoder = msgspec.msgpack.Encoder()


def to_frame(message: Struct) -> bytes:
    payload = _encoder.encode(message)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


#: Each reads the payload of a frame, and raises `msgspec.DecodeError` for what is none of its messages.
read_start = msgspec.msgpack.Decoder(Start).decode
read_job = msgspec.msgpack.Decoder(Job).decode
_greetings: msgspec.msgpack.Decoder[Greeting] = msgspec.msgpack.Decoder(Greeting)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
read_greeting = _greetings.decode
read_answer = _answers.decode
