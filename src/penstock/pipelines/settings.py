"""A pipeline's settings: the body of the control API, checked (Cloudflare's legacy pipelines API).

Every bound is part of a type, so the decoder finds a violation, and says where; what may stand there is said by us.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.base import limits
from penstock.base.errors import Invalid
from penstock.pipelines.layout import Compression
from penstock.pipelines.rolling import Rolling
from penstock.storage.bucket_names import BUCKET_NAME

CODE_INVALID_NAME = 2
CODE_INVALID_SETTINGS = 1012

_NAME = re.compile(r"[a-zA-Z0-9-]{1,128}")
_NAME_RULE = f"must be 1 to {limits.PIPELINE_NAME_LENGTH_MAX} characters of a-z, A-Z, 0-9 and '-'"
_PREFIX_PART = re.compile(r"[^/\x00-\x1f\x7f\\]+")


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    origins: list[str] = []


class HttpSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="http"):
    """Records come by HTTP; with `authentication` a token is needed."""

    format: Literal["json"] = "json"
    authentication: bool = False
    cors: Cors | UnsetType | None = UNSET


class BindingSource(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="binding"):
    """Records come from code. Accepted for compatibility; the HTTP endpoint serves code too."""

    format: Literal["json"] = "json"


Source = HttpSource | BindingSource


class BatchHints(Struct, frozen=True, forbid_unknown_fields=True):
    """A file is cut at the first of these."""

    max_bytes: Annotated[int, Meta(ge=limits.BATCH_BYTES_MAX_RANGE[0], le=limits.BATCH_BYTES_MAX_RANGE[1])] = (
        limits.BATCH_BYTES_MAX_DEFAULT
    )
    max_duration_s: Annotated[
        float, Meta(ge=limits.BATCH_SECONDS_MAX_RANGE[0], le=limits.BATCH_SECONDS_MAX_RANGE[1])
    ] = limits.BATCH_SECONDS_MAX_DEFAULT
    max_rows: Annotated[int, Meta(ge=limits.BATCH_RECORDS_MAX_RANGE[0], le=limits.BATCH_RECORDS_MAX_RANGE[1])] = (
        limits.BATCH_RECORDS_MAX_DEFAULT
    )


class CompressionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["none", "gzip", "deflate"] = "gzip"


class Path(Struct, frozen=True, forbid_unknown_fields=True):
    bucket: str
    prefix: str = ""
    #: Templates; only the default layout is available.
    filename: str | None = None
    filepath: str | None = None


class Destination(Struct, frozen=True, forbid_unknown_fields=True):
    path: Path
    type: Literal["r2"] = "r2"
    format: Literal["json"] = "json"
    batch: BatchHints = BatchHints()
    compression: CompressionSettings = CompressionSettings()
    #: Write-only at Cloudflare. A bucket here is a folder and needs none: accepted, never stored.
    credentials: Any = None


class Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    shards: Annotated[int, Meta(ge=1, le=limits.SHARDS_MAX)] | None = None


class PipelineBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST and PUT. A PUT may carry what a GET answered, so those fields are let pass."""

    name: str
    destination: Destination
    metadata: Metadata = Metadata()
    source: list[Source] = msgspec.field(default_factory=lambda: [HttpSource(), BindingSource()])
    transforms: list[Any] = []
    id: Any = None
    endpoint: Any = None
    version: Any = None


class PipelineSettings(Struct, frozen=True):
    """What a coordinator stores: checked, defaults filled in, no secrets."""

    name: str
    source: list[Source]
    bucket: str
    prefix: str
    batch: BatchHints
    compression: Compression
    shards: int | None

    @property
    def http(self) -> HttpSource | None:
        """The HTTP source, None if records may not come that way."""
        return next((source for source in self.source if isinstance(source, HttpSource)), None)

    @property
    def rolling(self) -> Rolling:
        batch = self.batch
        return Rolling(batch.max_bytes, round(batch.max_duration_s * 1000), batch.max_rows)


class PipelineDescription(Struct, frozen=True):
    """A pipeline as it is: `version` grows with each change of settings."""

    id: str
    version: int
    settings: PipelineSettings


_decoder = msgspec.json.Decoder(PipelineBody)


def _from_to(low: float, high: float) -> str:
    return f"from {low:,g} to {high:,.0f}"


#: What each field must be, in the words of an error. Places in a list are left out: `source.type`.
_MUST_BE = {
    "": "The pipeline's settings must be a JSON object.",
    "name": _NAME_RULE,
    "source": "must be a list of 'http', 'binding' or both, each an object with a type",
    "source.type": "must be 'http' or 'binding'",
    "source.format": "must be 'json'",
    "source.authentication": "must be true or false",
    "source.cors": "must be an object or null",
    "source.cors.origins": "must be an empty list",
    "transforms": "must be an empty list",
    "metadata": "must be an object",
    "metadata.shards": f"must be a whole number {_from_to(1, limits.SHARDS_MAX)}, or null",
    "destination": "must be an object",
    "destination.type": "must be 'r2'",
    "destination.format": "must be 'json'",
    "destination.path": "must be an object with a bucket",
    "destination.path.bucket": "must be text",
    "destination.path.prefix": "must be text",
    "destination.path.filename": "must be left out or null",
    "destination.path.filepath": "must be left out or null",
    "destination.batch": "must be an object",
    "destination.batch.max_bytes": f"must be a whole number {_from_to(*limits.BATCH_BYTES_MAX_RANGE)}",
    "destination.batch.max_duration_s": f"must be a number {_from_to(*limits.BATCH_SECONDS_MAX_RANGE)}",
    "destination.batch.max_rows": f"must be a whole number {_from_to(*limits.BATCH_RECORDS_MAX_RANGE)}",
    "destination.compression": "must be an object",
    "destination.compression.type": "must be 'gzip' or 'none'",
}
#: What an object may have in it.
_MAY_HAVE = {
    "": "a pipeline may have name, source, transforms, metadata and destination",
    "source": "'http' may have type, format, authentication and cors, 'binding' type and format",
    "source.cors": "source.cors may have origins",
    "metadata": "metadata may have shards",
    "destination": "destination may have type, format, path, batch, compression and credentials",
    "destination.path": "destination.path may have bucket and prefix",
    "destination.batch": "destination.batch may have max_bytes, max_duration_s and max_rows",
    "destination.compression": "destination.compression may have type",
}
#: "Expected `int` <= 15 - at `$.metadata.shards`"; without a place it is the whole body.
_DECODERS_WORDS = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_FIELD_PROBLEM = re.compile(r"Object (?P<kind>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)


def parse_settings(body: bytes) -> PipelineSettings:
    """Settings from a request's body. Raises `Invalid`, naming the field and the limit."""
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _in_prose(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"The body is not JSON ({_not_json(error)}).", code=CODE_INVALID_SETTINGS) from error
    path, compression = asked.destination.path, asked.destination.compression.type
    check_name(asked.name)
    if compression == "deflate":
        raise _invalid("destination.compression.type", "'deflate' is not available; use 'gzip' or 'none'")
    if not BUCKET_NAME.fullmatch(path.bucket):
        raise _invalid(
            "destination.path.bucket",
            "must be 3 to 63 characters of a-z, 0-9 and '-', and start and end with a letter or digit",
        )
    if path.filename or path.filepath:
        raise _invalid("destination.path", "filename and filepath templates are not available; leave them out")
    if asked.transforms:
        raise _invalid("transforms", "are not available; leave the list empty")
    sources = [type(source) for source in asked.source]
    if not sources or len(set(sources)) < len(sources):
        raise _invalid("source", "must list 'http', 'binding' or both, each once")
    if any(isinstance(source, HttpSource) and source.cors and source.cors.origins for source in asked.source):
        raise _invalid("source.cors.origins", "is not available; leave it empty")
    return PipelineSettings(
        name=asked.name,
        source=asked.source,
        bucket=path.bucket,
        prefix=_checked_prefix(path.prefix),
        batch=asked.destination.batch,
        compression=compression,
        shards=asked.metadata.shards,
    )


def check_name(name: str) -> None:
    """Raises `Invalid` unless `name` can be a pipeline's."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"name {_NAME_RULE}.",
            code=CODE_INVALID_NAME,
        )


def _checked_prefix(prefix: str) -> str:
    prefix = prefix.strip("/")
    if not prefix:
        return ""
    # Each part becomes a folder's name: 255 bytes is what file systems take.
    parts_fit = all(
        _PREFIX_PART.fullmatch(part) and part not in (".", "..") and len(part.encode("utf-8", "replace")) <= 255
        for part in prefix.split("/")
    )
    if not parts_fit or len(prefix) > limits.PREFIX_LENGTH_MAX:
        raise _invalid(
            "destination.path.prefix",
            f"must be at most {limits.PREFIX_LENGTH_MAX} characters, with parts of 1 to 255 bytes between slashes, "
            "no '.' or '..' as a part, no backslash and no control characters",
        )
    return prefix


def _invalid(field: str, problem: str) -> Invalid:
    return Invalid(f"{field} {problem}.", code=CODE_INVALID_SETTINGS)


def _in_prose(text: str) -> Invalid:
    """The decoder's error, naming the field and what it may be."""
    words = _DECODERS_WORDS.fullmatch(text)
    assert words is not None
    # A list's element is `source[0]`. Which one it is hardly matters: there are two at most.
    place = re.sub(r"\[[^]]*\]", "", words["place"] or "")
    about = _FIELD_PROBLEM.fullmatch(words["problem"])
    if about is None:
        must_be = _MUST_BE.get(place, "is not valid")
        return _invalid(place, must_be) if place else Invalid(must_be, code=CODE_INVALID_SETTINGS)
    field = f"{place}.{about['field']}" if place else about["field"]
    if about["kind"] == "missing required":
        return _invalid(field, "is required")
    return _invalid(field[:200], f"is not known; {_MAY_HAVE.get(place, 'leave it out')}")


def _not_json(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
    reason = str(error).removeprefix("JSON is malformed: ")
    return reason[:1].lower() + reason[1:]
