"""`App`: where an application registers its functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from penstock.apps.transform import Transform, TransformFunction, check_transform_name, checked_transform
from penstock.base.errors import Invalid
from penstock.base.limits import TRANSFORM_BATCH_RECORDS_MAX_DEFAULT, TRANSFORM_DEADLINE_MS_DEFAULT

F = TypeVar("F", bound=TransformFunction)


class App:
    """The functions of an application that Penstock calls. An application has one, in any of its module's
    attributes:

        app = App()

        @app.transform("clean")
        def clean(records: list[dict]) -> list[dict]:
            return [record for record in records if "user" in record]
    """

    def __init__(self) -> None:
        self._transforms: dict[str, Transform] = {}

    @property
    def transforms(self) -> Mapping[str, Transform]:
        """What was registered with `transform`, by name."""
        return MappingProxyType(self._transforms)

    def transform(
        self,
        name: str,
        *,
        deadline_ms: int = TRANSFORM_DEADLINE_MS_DEFAULT,
        batch_records_max: int = TRANSFORM_BATCH_RECORDS_MAX_DEFAULT,
    ) -> Callable[[F], F]:
        """Register the function below as the transform `name` (1 to 64 ASCII letters, digits, `-` and `_`).

        The function, `def` or `async def`, is called with 1 to `batch_records_max` records (1 to 10,000) and gives
        the list of those that go on: fewer, more or other ones, or an empty list. It may take `deadline_ms` (10 to
        300,000). It can be called as before, in a test say.

        Raises `Invalid` for a name that is taken or none, for numbers out of range, and for what is no such
        function."""
        check_transform_name(name)

        def register(function: F) -> F:
            transform = checked_transform(
                name, function, deadline_ms=deadline_ms, batch_records_max=batch_records_max
            )
            if name in self._transforms:
                raise Invalid(f"There are two transforms with the name {name}; give one of them another.")
            self._transforms[name] = transform
            return function

        return register
