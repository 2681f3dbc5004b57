"""HTTP as an object's `fetch` sees it: a request goes in, a response comes out.

Both are plain values that travel between executors like any argument and result. So an object may also call the
`fetch` of another with a request that it made itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from penstock.base.errors import Invalid

#: What headers can be made from: a mapping, or pairs where a name occurs more than once.
HeaderSource = Mapping[str, str] | Iterable[tuple[str, str]]


class Headers(Struct, frozen=True, array_like=True):
    """Names and values, in order. A name may occur more than once, and is found in upper and lower case."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, source: HeaderSource) -> Headers:
        """`Headers.of({"content-type": "text/plain"})`, or of pairs."""
        pairs = tuple(source.items() if isinstance(source, Mapping) else source)
        for name, value in pairs:
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"a header's name and value are str: {name!r}: {value!r}")
        return cls(tuple((name.lower(), value) for name, value in pairs))

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a name."""
        return next(iter(self.get_all(name)), default)

    def get_all(self, name: str) -> list[str]:
        """All values of a name, in order."""
        return [value for known, value in self.pairs if known == name.lower()]

    def __getitem__(self, name: str) -> str:
        """The first value of a name. Raises `KeyError`."""
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Pairs of name, in lower case, and value."""
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class Request(Struct, frozen=True, array_like=True):
    """What `fetch` is called with.

    `path` is what follows the object's name, percent-decoded, and starts with `/`. `query_string` is what follows
    `?`, as it was sent. `body` is complete.
    """

    method: str = "GET"
    path: str = "/"
    query_string: str = ""
    headers: Headers = Headers()
    body: bytes = b""

    @property
    def query(self) -> dict[str, list[str]]:
        """The values of each name in the query."""
        return parse_qs(self.query_string, keep_blank_values=True)

    def text(self) -> str:
        """The body as UTF-8. Raises `Invalid` (400) if it is something else."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Invalid(f"The body is not UTF-8: {error}.") from error

    def json(self) -> Any:
        """The body as JSON. Raises `Invalid` (400) if it is something else."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise Invalid(f"The body is not JSON: {error}.") from error


class Response(Struct, frozen=True, array_like=True):
    """What `fetch` returns. `status` is from 200 to 599. `content-length` and what belongs to the connection is
    the server's to set, and ignored in `headers`."""

    body: bytes = b""
    status: int = 200
    headers: Headers = Headers()

    def __post_init__(self) -> None:
        """Raises `TypeError` and `ValueError`, where the mistake is made."""
        body: object = self.body  # whatever the annotations say
        headers: object = self.headers
        if not isinstance(body, bytes):
            kind = type(body).__name__
            raise TypeError(f"a Response's body must be bytes, not {kind}; use Response.text(…) or .json(…)")
        if not isinstance(headers, Headers):
            raise TypeError("a Response's headers must be Headers; use Headers.of({…})")
        if isinstance(self.status, bool) or not isinstance(self.status, int):
            raise TypeError(f"a Response's status must be an int, not {type(self.status).__name__}")
        if not 200 <= self.status <= 599:
            raise ValueError(f"a Response's status must be from 200 to 599, not {self.status}")

    @classmethod
    def text(cls, text: str, status: int = 200, headers: HeaderSource = ()) -> Response:
        if not isinstance(text, str):
            raise TypeError(f"Response.text takes a str, not {type(text).__name__}")
        return cls(text.encode(), status, _with_type(headers, "text/plain; charset=utf-8"))

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: HeaderSource = ()) -> Response:
        """`value` is anything that msgspec can encode: dicts, lists, dataclasses, structs, dates."""
        return cls(msgspec.json.encode(value), status, _with_type(headers, "application/json"))


def _with_type(source: HeaderSource, content_type: str) -> Headers:
    headers = Headers.of(source)
    return headers if "content-type" in headers else Headers((("content-type", content_type), *headers.pairs))
