"""What is said between an executor and the process that runs a query: frames of a length and msgpack.

executor                        process
Asked(sql)               ->
                         <-     Named(tables) or Failed
Given(tables, …)         ->
                         <-     Needed(paths) or Failed
Ready(missing)           ->
                         <-     Found(…) or Failed
"""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct, msgpack

T = TypeVar("T")

HEADER_BYTES = 4


class Asked(Struct, frozen=True, tag=True):
    sql: str


class Named(Struct, frozen=True, tag=True):
    """The tables that a query reads, as it writes them; `expressions` are names that it gives something itself, and
    that may mean a table as well."""

    tables: list[str]
    expressions: list[str]


class Given(Struct, frozen=True, tag=True):
    """For each table the paths of its files: those that are there, and those that can be fetched there."""

    tables: dict[str, list[str]]
    rows_max: int
    result_bytes_max: int
    memory_bytes_max: int
    #: For what does not fit into memory; it is there.
    spill_folder: str
    spill_bytes_max: int


class Needed(Struct, frozen=True, tag=True):
    """For each table the paths that the query's conditions on the partitions leave."""

    paths: dict[str, list[str]]


class Ready(Struct, frozen=True, tag=True):
    """Everything was fetched; these are not there."""

    missing: list[str]


class Found(Struct, frozen=True, tag=True):
    """`rows` are JSON arrays, joined by commas."""

    columns: list[str]
    types: list[str]
    rows: bytes
    truncated: bool


class Failed(Struct, frozen=True, tag=True):
    """`message` is for whoever wrote the query."""

    message: str


Question = Asked | Given | Ready
Answer = Named | Needed | Found | Failed

_questions = msgpack.Decoder(Question)
_answers = msgpack.Decoder(Answer)


def to_frame(message: Struct) -> bytes:
    payload = msgpack.encode(message)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def read_question(payload: bytes) -> Question:
    question: Question = _questions.decode(payload)
    return question


def read_answer(payload: bytes) -> Answer:
    """Raises `msgspec.DecodeError`."""
    answer: Answer = _answers.decode(payload)
    return answer
