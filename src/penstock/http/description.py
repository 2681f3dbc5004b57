"""What is said about a route, beside the route itself: `openapi.py` makes a document of it. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock.base.errors import (
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    PenstockError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from penstock.http.parameters import IN_PATHS, Paging, Parameter, QueryParameter
from penstock.tokens.grants import Scope

Policy = Literal["public"] | Scope
#: How the JSON around a result and an error looks: the v4 envelope, the ingest endpoint's shape, none; and for
#: errors `fetch`: the ingest endpoint's shape, or whatever an object answers with the same status.
Envelope = Literal["v4", "ingest", "none", "fetch"]

Tag = Literal["Ingest", "Pipelines", "Records", "Tokens", "Durable objects", "Operation"]
#: In the order of the reference.
TAGS: dict[Tag, str] = {
    "Ingest": "Records in. Answers have a shape of their own, that of Cloudflare's ingest endpoint.",
    "Pipelines": "Making, changing and watching pipelines, and proving what they did.",
    "Records": "Looking at records: SQL over those in files, and those that come in.",
    "Tokens": "Tokens with scopes.",
    "Durable objects": "Objects of an application: requests to them, and how they are.",
    "Operation": "For load balancers, monitoring, and whoever writes a client.",
}

JSON = "application/json"

_IN_BRACES = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success, or whatever has no kind of error. `status` None is any that is not named. `type` is one that
    msgspec describes, or JSON Schema; None for nothing (in the envelope: null). `info` is the type of the
    `result_info` beside a result."""

    status: int | None = 200
    description: str = "Done."
    type: Any = None
    info: Any = None
    media_type: str = JSON
    envelope: Envelope = "v4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `summary` is a line, `text` Markdown. `policy` is `public` or the scope of the token
    that it needs, or may need if `token_optional`. `errors` are the kinds that it may answer with, all of them."""

    id: str
    tag: Tag
    method: str
    path: str
    policy: Policy
    summary: str
    text: str
    answers: Sequence[Answer]
    errors: frozenset[type[PenstockError]]
    token_optional: bool = False
    parameters: Sequence[Parameter] = ()
    #: The body by its media type, None for none: a type that msgspec describes, or JSON Schema.
    body: Mapping[str, Any] | None = None
    body_required: bool = True
    error_envelope: Envelope = "v4"
    #: Where it is served, if not on every host (an OpenAPI Server Object).
    server: Mapping[str, Any] | None = None


def plain(media_type: str, description: str = "Done.", status: int = 200) -> Answer:
    """An answer that is not JSON."""
    return Answer(status=status, description=description, media_type=media_type, envelope="none")


def path_parameters(path: str) -> list[Parameter]:
    return [IN_PATHS[name] for name in _IN_BRACES.findall(path)]


def query_parameters(query: Sequence[QueryParameter | Paging]) -> list[Parameter]:
    found: list[Parameter] = []
    for each in query:
        if isinstance(each, Paging):
            found.extend(number.parameter for number in each.parameters)
        else:
            found.append(each.parameter)
    return found


def words_of(function: Callable[..., Any]) -> tuple[str, str]:
    """The first line of its docstring, and the rest: what clients are told of a handler stands in its docstring."""
    summary, _, text = (inspect.getdoc(function) or "").partition("\n")
    return summary.removesuffix("."), text.strip()


def frame_errors(policy: Policy, path: str, *, query: bool, body: bool) -> frozenset[type[PenstockError]]:
    """What the frame and the reading of a request may answer, whatever the handler does."""
    errors: set[type[PenstockError]] = {Internal}
    if policy != "public":
        errors |= {Unauthenticated, Forbidden, Unavailable}
    if any(parameter.name != "account" for parameter in path_parameters(path)):
        errors |= {Invalid, NotFound}
    if query or body:
        errors.add(Invalid)
    if body:
        errors.add(TooLarge)
    return frozenset(errors)
