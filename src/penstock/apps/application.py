"""An application: classes, what they are given, and what became of earlier classes."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.apps.message import Request, Response
from penstock.apps.migration import Migration
from penstock.apps.source import AppSource, source_version
from penstock.apps.transform import Transform
from penstock.base.errors import Invalid
from penstock.base.limits import CLASS_NAME_LENGTH_MAX
from penstock.objects import DurableObject
from penstock.objects.remote import methods_of

UserClass = type[DurableObject[Any]]

_CLASS_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{CLASS_NAME_LENGTH_MAX - 1}}}")
_ALARM = "async def alarm(self, info: AlarmInfo) -> None"
_FETCH = "async def fetch(self, request: Request) -> Response"


@dataclass(frozen=True, slots=True)
class Application:
    """`source` names it, for people. `transforms` are by name. `origin` is the code that it was loaded from, None
    if it was put together by hand. Make one with `checked`."""

    source: str
    classes: tuple[UserClass, ...] = ()
    env: Any = None
    migrations: tuple[Migration, ...] = ()
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    origin: AppSource | None = None

    @property
    def class_names(self) -> set[str]:
        return {cls.__name__ for cls in self.classes}

    @property
    def version(self) -> str:
        """Of the code: 12 hexadecimal digits, the same for the same text of the application's file."""
        return source_version(b"" if self.origin is None else self.origin.text)


NO_APPLICATION = Application("no application")


def has_fetch(cls: UserClass) -> bool:
    """Whether the class can be reached over HTTP."""
    return inspect.isfunction(getattr(cls, "fetch", None))


def checked(application: Application, reserved: Sequence[str]) -> Application:
    """The application, if it can be served. `reserved` are the names of the server's own classes. Raises `Invalid`
    with what to change."""
    seen: dict[str, str] = {}
    for cls in application.classes:
        name = cls.__name__
        if name in reserved:
            raise Invalid(
                f"The class {name} has the name of one of Penstock's own ({', '.join(reserved)}); give it another."
            )
        if not _CLASS_NAME.fullmatch(name):
            raise Invalid(
                f"The class {name} needs another name: up to {CLASS_NAME_LENGTH_MAX} ASCII letters, digits and _."
            )
        # Their objects' folders would be one on a file system that does not tell upper from lower case.
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            raise Invalid(
                f"The classes {other} and {name} must differ in more than upper and lower case; rename one."
            )
        _check_class(cls)
    tags = [migration.tag for migration in application.migrations]
    for tag in tags:
        if tags.count(tag) > 1:
            raise Invalid(f"Two migrations have the tag {tag!r}; each is applied once, by its tag.")
    return application


def _check_class(cls: UserClass) -> None:
    if not isinstance(cls.public, bool):
        raise Invalid(f"{cls.__name__}.public is {cls.public!r}; it must be True or False.")
    _check_init(cls)
    _check_alarm(cls)
    try:
        methods_of(cls)
        if has_fetch(cls):
            _check_fetch(cls)
        elif cls.public:
            raise Invalid(f"{cls.__name__} is public but has no method to reach: write {_FETCH}.")
    except (TypeError, NameError) as error:
        raise Invalid(
            f"The methods of {cls.__name__} cannot be called through a stub: {str(error).rstrip('.')}."
        ) from error


def _check_init(cls: UserClass) -> None:
    init = cls.__init__
    if inspect.iscoroutinefunction(init) or not _takes(init, 3):
        raise Invalid(
            f"{cls.__name__}.__init__ must be written as: def __init__(self, ctx: Context, env: …) -> None; what "
            "has to be awaited goes into ctx.block_concurrency_while."
        )


def _check_alarm(cls: UserClass) -> None:
    if not inspect.iscoroutinefunction(cls.alarm) or not _takes(cls.alarm, 2):
        raise Invalid(f"{cls.__name__}.alarm must be written as: {_ALARM}.")


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments by place."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _check_fetch(cls: UserClass) -> None:
    """Its annotations say what arrives at it from another executor, so they have to be there."""
    function = cls.fetch  # type: ignore[attr-defined]
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters)[1:]
    types = [hints.get(name) for name in [*parameters, "return"]]
    if not inspect.iscoroutinefunction(function) or types != [Request, Response]:
        raise Invalid(f"{cls.__name__}.fetch must be written as: {_FETCH}.")
