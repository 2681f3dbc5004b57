"""What an operator asks for when making a token: the body of the control API, checked."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from penstock.base.errors import Invalid
from penstock.base.limits import PIPELINE_NAME_LENGTH_MAX, TOKEN_NAME_LENGTH_MAX, TOKEN_PIPELINES_MAX
from penstock.tokens.grants import EVERY_PIPELINE, SCOPES, Grants, Scope

CODE_INVALID_TOKEN = 1012

_PIPELINE = re.compile(rf"[a-zA-Z0-9-]{{1,{PIPELINE_NAME_LENGTH_MAX}}}")


class TokenBody(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=TOKEN_NAME_LENGTH_MAX,
            description="What it is for; printable.",
            examples=["web shop"],
        ),
    ]
    scopes: Annotated[
        list[Scope],
        Meta(
            min_length=1,
            max_length=len(SCOPES),
            description="No scope holds another, but `admin`.",
            examples=[["pipelines:send"]],
        ),
    ]
    pipelines: Annotated[
        list[str],
        Meta(
            min_length=1,
            max_length=TOKEN_PIPELINES_MAX,
            description="Pipelines that the `pipelines:` scopes hold for, which need not exist yet, or `*`.",
            extra_json_schema={"default": [EVERY_PIPELINE]},
        ),
    ] = msgspec.field(default_factory=lambda: [EVERY_PIPELINE])
    expires_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="With an offset, in the future. Null: never.", examples=["2030-01-31T00:00:00Z"]),
    ] = None


class TokenSettings(Struct, frozen=True):
    """Checked, and complete."""

    name: str
    grants: Grants


_decoder = msgspec.json.Decoder(TokenBody)

#: With an offset a time may be later than any that can be told in UTC.
_YEAR_10000_MS = 253_402_300_800_000

#: What each field must be, in the words of an error.
_MUST_BE = {
    "": "The token's settings must be a JSON object.",
    "name": f"must be text of 1 to {TOKEN_NAME_LENGTH_MAX} characters",
    "scopes": f"must be a list of one or more of {', '.join(SCOPES)}",
    "pipelines": f"must be a list of 1 to {TOKEN_PIPELINES_MAX} names of pipelines, or ['*'] for all",
    "expires_at": "must be a time with an offset, like '2030-01-31T00:00:00Z', or null",
}
_DECODERS_WORDS = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<place>[^`\[]*)[^`]*`)?", re.DOTALL)
_FIELD_PROBLEM = re.compile(r"Object (?P<kind>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)


def parse_token(body: bytes, now_ms: int) -> TokenSettings:
    """A token's settings from a request's body. Raises `Invalid`, naming the field and the limit."""
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _in_prose(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid("The body is not JSON.", code=CODE_INVALID_TOKEN) from error
    if not asked.name.isprintable():
        raise _invalid("name", "must be printable")
    for name in asked.pipelines:
        if name != EVERY_PIPELINE and not _PIPELINE.fullmatch(name):
            raise _invalid("pipelines", f"holds {name[:100]!r}, which can be no pipeline's name")
    if "admin" in asked.scopes and asked.pipelines != [EVERY_PIPELINE]:
        raise _invalid("pipelines", "must be ['*'] or left out with the scope 'admin', which covers everything")
    expires_at_ms = None
    if asked.expires_at is not None:
        expires_at_ms = _ms(asked.expires_at)
        if not now_ms < expires_at_ms < _YEAR_10000_MS:
            raise _invalid("expires_at", "must be in the future, and before the year 10000 in UTC")
    return TokenSettings(asked.name, Grants(asked.scopes, asked.pipelines, expires_at_ms))


def _ms(time: datetime) -> int:
    # In whole numbers: 2^53 microseconds are not enough for a float to the year 9999.
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def _in_prose(text: str) -> Invalid:
    words = _DECODERS_WORDS.fullmatch(text)
    assert words is not None
    place = words["place"] or ""
    about = _FIELD_PROBLEM.fullmatch(words["problem"])
    if about is not None and about["kind"] == "missing required":
        return _invalid(about["field"], "is required")
    if about is not None:
        fields = "a token may have name, scopes, pipelines and expires_at"
        return _invalid(about["field"][:200], f"is not known; {fields}")
    return _invalid(place, _MUST_BE[place]) if place else Invalid(_MUST_BE[""], code=CODE_INVALID_TOKEN)


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"{field} {problem}.", code=CODE_INVALID_TOKEN)
