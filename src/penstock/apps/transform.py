"""A transform as a user defines it: a function over lists of records, a name, and what it may take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from penstock.base.errors import Invalid
from penstock.base.limits import (
    TRANSFORM_BATCH_RECORDS_MAX_RANGE,
    TRANSFORM_DEADLINE_MS_RANGE,
    TRANSFORM_NAME_LENGTH_MAX,
)

Records = list[dict[str, Any]]
TransformFunction = Callable[[Records], Records | Awaitable[Records]]

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{TRANSFORM_NAME_LENGTH_MAX - 1}}}")
_HOW = '@app.transform("name") over: def function(records: list[dict]) -> list[dict]'


@dataclass(frozen=True, slots=True)
class Transform:
    """`deadline_ms` is what one call of the function may take, `batch_records_max` how many records it is handed
    at once. Make one with `checked_transform`."""

    name: str
    function: TransformFunction
    deadline_ms: int
    batch_records_max: int


def check_transform_name(name: object) -> str:
    """The name, if it is one. Raises `Invalid` with what to write."""
    if callable(name):
        raise Invalid(f"A transform needs a name; write {_HOW}.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"The transform's name {name!r} must be 1 to {TRANSFORM_NAME_LENGTH_MAX} ASCII letters, digits, - and "
            "_, and start with a letter or digit."
        )
    return name


def checked_transform(
    name: str, function: TransformFunction, *, deadline_ms: int, batch_records_max: int
) -> Transform:
    """Raises `Invalid` with what to change."""
    where = f"The transform {check_transform_name(name)}"
    _check_number(where, "deadline_ms", deadline_ms, TRANSFORM_DEADLINE_MS_RANGE)
    _check_number(where, "batch_records_max", batch_records_max, TRANSFORM_BATCH_RECORDS_MAX_RANGE)
    if inspect.isclass(function) or not callable(function):
        raise Invalid(f"{where} is no function: {function!r}; write {_HOW}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Invalid(f"{where} yields its records; it must return them as one list.")
    try:
        inspect.signature(function).bind([])
    except TypeError as error:
        raise Invalid(f"{where} must take one argument, the list of records ({error}); write {_HOW}.") from error
    return Transform(name, function, deadline_ms, batch_records_max)


def _check_number(where: str, field: str, value: object, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Invalid(f"{where} has {field}={value!r}; it must be a whole number from {low} to {high}.")
