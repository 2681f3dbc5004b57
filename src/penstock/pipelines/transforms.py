"""The port to users' transforms, and what a record looks like that they did not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from penstock.base.errors import NotFound


class DeadRecord(Protocol):
    @property
    def record(self) -> bytes:
        """As it came: one line of JSON, without the newline."""
        ...

    @property
    def reason(self) -> str:
        """`error`, `invalid_result`, `too_large`, `deadline` or `crash`."""
        ...

    @property
    def detail(self) -> str:
        """For people; bounded."""
        ...


class TransformOutcome(Protocol):
    """Each record that went in was handed to a call that succeeded, or is in `dead`."""

    @property
    def ndjson(self) -> bytes:
        """What the transform made, each line ended by a newline; empty if that is nothing."""
        ...

    @property
    def records(self) -> int:
        """The number of lines in `ndjson`."""
        ...

    @property
    def dead(self) -> Sequence[DeadRecord]: ...


class Transforms(Protocol):
    """The transforms of the application that this server runs. Implemented over a worker process
    (`apps/transforms.py`), and in line by the simulator."""

    def names(self) -> Sequence[str]: ...

    def version(self, name: str) -> str:
        """Of its code: 12 hexadecimal digits. Raises `NotFound`."""
        ...

    async def run(self, name: str, ndjson: bytes) -> TransformOutcome:
        """Hand records, one a line, to a transform. It may call the function more than once with a record, and a
        run that is made again gives the same only if the function does. What the function does wrong makes records
        dead, it raises nothing. Takes up to the transform's deadline for each list that it is cut into. Raises
        `NotFound`; `Unavailable` when the worker cannot be started, saying why, and nothing is dead by that."""
        ...


class NoTransforms:
    """Of a server without an application."""

    def names(self) -> Sequence[str]:
        return ()

    def version(self, name: str) -> str:
        raise self._unknown(name)

    async def run(self, name: str, ndjson: bytes) -> TransformOutcome:
        raise self._unknown(name)

    def _unknown(self, name: str) -> NotFound:
        return NotFound(
            f"There is no transform {name!r}: this server runs no application. Start it with --app FILE_OR_MODULE."
        )


def dead_letter_line(dead: DeadRecord, *, transform: str, version: str) -> bytes:
    """A dead record as a line of a dead-letter file: a JSON object with the record, as it came, under `record`."""
    letter = {
        "reason": dead.reason,
        "detail": dead.detail,
        "transform": transform,
        "version": version,
        "record": msgspec.Raw(dead.record),
    }
    return msgspec.json.encode(letter) + b"\n"
