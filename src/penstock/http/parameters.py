"""What stands in a path or a query: read by handlers and described to clients, from one definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct
from starlette.requests import Request

from penstock.base.errors import Invalid
from penstock.base.limits import (
    CLASS_NAME_LENGTH_MAX,
    CURSOR_LENGTH_MAX,
    LIST_PER_PAGE_MAX,
    OBJECT_NAME_BYTES_MAX,
    PIPELINE_NAME_LENGTH_MAX,
)

#: Pages of a list: the last one that can be asked for, so that no number is too large for SQLite.
_PAGE_MAX = 1_000_000
_PER_PAGE_DEFAULT = 20


@dataclass(frozen=True, slots=True)
class Parameter:
    """`schema` is JSON Schema; `description` Markdown, of a line or two."""

    name: str
    description: str
    schema: Mapping[str, Any]
    place: Literal["path", "query", "header"] = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """From 1 to `most`."""

    name: str
    description: str
    default: int
    most: int
    #: Of the error.
    code: int

    @property
    def parameter(self) -> Parameter:
        schema = {"type": "integer", "minimum": 1, "maximum": self.most, "default": self.default}
        return Parameter(self.name, self.description, schema)

    def read(self, request: Request) -> int:
        """Raises `Invalid`."""
        text = request.query_params.get(self.name)
        if text is None:
            return self.default
        # The length first: Python refuses to convert some thousands of digits.
        if len(text) > 20 or not text.isascii() or not text.isdigit() or not 1 <= int(text) <= self.most:
            raise Invalid(f"{self.name} must be a whole number from 1 to {self.most}.", code=self.code)
        return int(text)


@dataclass(frozen=True, slots=True)
class Share:
    """A number above 0, up to 1, which is the default."""

    name: str
    description: str
    code: int

    @property
    def parameter(self) -> Parameter:
        schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1}
        return Parameter(self.name, self.description, schema)

    def read(self, request: Request) -> float:
        """Raises `Invalid`."""
        try:
            share = float(request.query_params.get(self.name, "1"))
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise Invalid(f"{self.name} must be a number above 0, up to 1: {self.description}", code=self.code)
        return share


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`, which is the default."""

    name: str
    description: str
    code: int

    @property
    def parameter(self) -> Parameter:
        return Parameter(self.name, self.description, {"type": "boolean", "default": False})

    def read(self, request: Request) -> bool:
        """Raises `Invalid`."""
        text = request.query_params.get(self.name, "false")
        if text not in ("true", "false"):
            raise Invalid(f"{self.name} must be true or false.", code=self.code)
        return text == "true"


@dataclass(frozen=True, slots=True)
class Text:
    """Any text; what it may be, `pattern` says and whoever reads it checks."""

    name: str
    description: str
    length_max: int | None = None
    pattern: str | None = None

    @property
    def parameter(self) -> Parameter:
        schema: dict[str, Any] = {"type": "string"}
        if self.length_max is not None:
            schema["maxLength"] = self.length_max
        if self.pattern is not None:
            schema["pattern"] = self.pattern
        return Parameter(self.name, self.description, schema)

    def read(self, request: Request) -> str | None:
        return request.query_params.get(self.name)


QueryParameter = WholeNumber | Share | Flag | Text


def step_cursor() -> Text:
    """Where a piece of work that is done step by step goes on."""
    return Text(
        "cursor", "What the step before gave; begin without one, and go on until it is null.", CURSOR_LENGTH_MAX
    )


class PageInfo(Struct, frozen=True):
    """Where in a list `result` is: `count` of its `total_count` entries."""

    page: int
    per_page: int
    count: int
    total_count: int


@dataclass(frozen=True, slots=True)
class Paging:
    """The two parameters of a list that is given page by page."""

    #: Of the error.
    code: int

    @property
    def parameters(self) -> tuple[WholeNumber, WholeNumber]:
        return (
            WholeNumber("page", "Which page of the list.", 1, _PAGE_MAX, self.code),
            WholeNumber("per_page", "Entries of a page.", _PER_PAGE_DEFAULT, LIST_PER_PAGE_MAX, self.code),
        )

    def read(self, request: Request) -> tuple[int, int]:
        """The page, from 1, and the entries of one. Raises `Invalid`."""
        page, per_page = self.parameters
        return page.read(request), per_page.read(request)


def _in_path(name: str, description: str, **schema: Any) -> Parameter:
    return Parameter(name, description, {"type": "string", **schema}, "path", required=True)


#: Everything that stands in braces in a path.
IN_PATHS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        _in_path(
            "account",
            "The account's id, which is in `credentials.toml` in the data directory.",
            pattern="^[0-9a-f]{32}$",
        ),
        _in_path(
            "name",
            "The pipeline's name.",
            pattern=f"^[a-zA-Z0-9-]{{1,{PIPELINE_NAME_LENGTH_MAX}}}$",
        ),
        _in_path("id", "The pipeline's id, as its `endpoint` has it.", pattern="^[0-9a-f]{32}$"),
        _in_path("token", "The token's id, which is not its secret.", pattern="^[0-9a-f]{32}$"),
        _in_path(
            "namespace",
            "The namespace's id: the name of the class, unless that was renamed.",
            pattern=f"^[A-Za-z][A-Za-z0-9_]{{0,{CLASS_NAME_LENGTH_MAX - 1}}}$",
        ),
        _in_path("object", "The object's id; find it by its name in the list.", pattern="^[0-9a-f]{64}$"),
        _in_path("class", "The name of a class of the application."),
        _in_path(
            "object_name",
            f"The object's name, percent-encoded; up to {OBJECT_NAME_BYTES_MAX:,} bytes.",
            minLength=1,
            maxLength=OBJECT_NAME_BYTES_MAX,
        ),
        _in_path("rest", "What `fetch` sees as the path. It may have slashes, and may be left out."),
    )
}
