"""A pipeline's settings out of a body of the control API (`pipeline_body.py`).

Every bound is part of a type, so the decoder finds a violation, and says where; what may stand there is said by us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import msgspec
from msgspec import UnsetType

from penstock.base import limits
from penstock.base.errors import Invalid
from penstock.base.ids import ULID_LENGTH
from penstock.pipelines.layout import (
    FILENAME_DEFAULT,
    FILEPATH_DEFAULT,
    Layout,
    file_key,
    template_problem,
)
from penstock.pipelines.pipeline_body import NAME, Credentials, Path, PipelineBody
from penstock.pipelines.preparation import PartitionTime
from penstock.pipelines.settings import (
    Cors,
    HttpSource,
    PipelineSettings,
    Source,
    TransformRef,
)
from penstock.storage.bucket_names import BUCKET_NAME
from penstock.storage.connection import S3Connection, S3Credentials, checked_region

CODE_INVALID_NAME = 2
CODE_INVALID_SETTINGS = 1012

#: Endpoint, key, region, path style; raises `Invalid`.
Connect = Callable[[str, S3Credentials, str, bool], S3Connection]

_NAME_RULE = f"must be 1 to {limits.PIPELINE_NAME_LENGTH_MAX} characters of a-z, A-Z, 0-9 and '-'"
#: What file systems take as a name.
_NAME_BYTES_MAX = 255
_FIELD_NAME = re.compile(rf'[^"\\\x00-\x1f]{{1,{limits.FIELD_NAME_LENGTH_MAX}}}')
_NAME_PART = re.compile(r"[^/\x00-\x1f\x7f\\]+")

#: RFC 6454, 6.2. A host beyond ASCII is in Punycode there.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+])(:(?P<port>[0-9]{1,5}))?"
)


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
    "source.cors.origins": "must be a list of origins like 'https://example.com', or '*' for any",
    "transforms": f"must be a list of at most {limits.TRANSFORMS_MAX} objects with a name",
    "transforms.name": "must be text",
    "metadata": "must be an object",
    "metadata.shards": f"must be a whole number {_from_to(1, limits.SHARDS_MAX)}, or null",
    "destination": "must be an object",
    "destination.type": "must be 'r2'",
    "destination.format": "must be 'json'",
    "destination.path": "must be an object with a bucket",
    "destination.path.bucket": "must be text",
    "destination.path.prefix": "must be text",
    "destination.path.filename": "must be text or null",
    "destination.path.filepath": "must be text or null",
    "destination.partition_time": "must be an object or null",
    "destination.partition_time.field": "must be text",
    "destination.partition_time.format": "must be 'rfc3339', 'unix_s' or 'unix_ms'",
    "destination.credentials": "must be an object or null",
    "destination.credentials.endpoint": "must be the URL of an S3 server",
    "destination.credentials.access_key_id": "must be text",
    "destination.credentials.secret_access_key": "must be text",
    "destination.credentials.region": "must be text",
    "destination.credentials.path_style": "must be true or false",
    "destination.batch": "must be an object",
    "destination.batch.max_bytes": f"must be a whole number {_from_to(*limits.BATCH_BYTES_MAX_RANGE)}",
    "destination.batch.max_duration_s": f"must be a number {_from_to(*limits.BATCH_SECONDS_MAX_RANGE)}",
    "destination.batch.max_rows": f"must be a whole number {_from_to(*limits.BATCH_RECORDS_MAX_RANGE)}",
    "destination.compression": "must be an object",
    "destination.compression.type": "must be 'gzip', 'zstd', 'deflate' or 'none'",
}
#: What an object may have in it.
_MAY_HAVE = {
    "": "a pipeline may have name, source, transforms, metadata and destination",
    "source": "'http' may have type, format, authentication and cors, 'binding' type and format",
    "source.cors": "source.cors may have origins",
    "metadata": "metadata may have shards",
    "transforms": "a transform may have name",
    "destination": "destination may have type, format, path, batch, compression, partition_time and credentials",
    "destination.path": "destination.path may have bucket, prefix, filepath and filename",
    "destination.partition_time": "destination.partition_time may have field and format",
    "destination.credentials": (
        "destination.credentials may have endpoint, access_key_id, secret_access_key, region and path_style"
    ),
    "destination.batch": "destination.batch may have max_bytes, max_duration_s and max_rows",
    "destination.compression": "destination.compression may have type",
}
#: "Expected `int` <= 15 - at `$.metadata.shards`"; without a place it is the whole body.
_DECODERS_WORDS = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_FIELD_PROBLEM = re.compile(r"Object (?P<kind>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)


def parse_settings(
    body: bytes,
    *,
    connect: Connect,
    transforms: Collection[str],
    current: PipelineSettings | None = None,
) -> PipelineSettings:
    """Settings from a request's body; `current` are those that they replace. `connect` seals credentials and checks
    them, `transforms` are those that there are. Raises `Invalid`, naming the field and the limit."""
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _in_prose(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"The body is not JSON ({_not_json(error)}).", code=CODE_INVALID_SETTINGS) from error
    destination = asked.destination
    path = destination.path
    check_name(asked.name)
    if not BUCKET_NAME.fullmatch(path.bucket):
        raise _invalid(
            "destination.path.bucket",
            "must be 3 to 63 characters of a-z, 0-9 and '-', and start and end with a letter or digit",
        )
    filepath, filename = _checked_templates(path)
    _check_partition_time(destination.partition_time)
    _check_transforms(asked.transforms, transforms)
    sources = [type(source) for source in asked.source]
    if not sources or len(set(sources)) < len(sources):
        raise _invalid("source", "must list 'http', 'binding' or both, each once")
    settings = PipelineSettings(
        name=asked.name,
        source=[_checked_source(source) for source in asked.source],
        bucket=path.bucket,
        prefix=_checked_prefix(path.prefix),
        batch=destination.batch,
        compression=destination.compression.type,
        shards=asked.metadata.shards,
        s3=_connection(destination.credentials, connect, current.s3 if current is not None else None),
        filepath=filepath,
        filename=filename,
        partition_time=destination.partition_time,
        transforms=asked.transforms,
    )
    _check_keys(settings.layout)
    return settings


def _connection(
    asked: Credentials | UnsetType | None, connect: Connect, current: S3Connection | None
) -> S3Connection | None:
    if asked is None:
        return None
    if isinstance(asked, UnsetType):
        return current
    try:
        return _connected(asked, connect, current)
    except Invalid as error:
        raise Invalid(error.message, code=CODE_INVALID_SETTINGS) from error


def _connected(asked: Credentials, connect: Connect, current: S3Connection | None) -> S3Connection:
    field = "destination.credentials"
    if asked.access_key_id is not None and asked.secret_access_key is not None:
        key = S3Credentials(asked.access_key_id, asked.secret_access_key)
        return connect(asked.endpoint, key, asked.region, asked.path_style)
    if asked.access_key_id is not None or asked.secret_access_key is not None:
        raise _invalid(field, "must have both access_key_id and secret_access_key, or none of them")
    if current is None or current.endpoint != asked.endpoint.rstrip("/"):
        raise _invalid(field, "needs access_key_id and secret_access_key for this endpoint: no key is known for it")
    region = checked_region(asked.region, f"{field}.region")
    return msgspec.structs.replace(current, region=region, path_style=asked.path_style)


def _checked_templates(path: Path) -> tuple[str, str]:
    filepath = FILEPATH_DEFAULT if path.filepath is None else path.filepath.strip("/")
    filename = FILENAME_DEFAULT if path.filename is None else path.filename
    for field, text in (("filepath", filepath), ("filename", filename)):
        parts = text.split("/") if text else []
        if len(text) > limits.TEMPLATE_LENGTH_MAX or not all(map(_fits_as_name, parts)):
            raise _invalid(
                f"destination.path.{field}",
                f"must be at most {limits.TEMPLATE_LENGTH_MAX} characters, with no empty part, no '.' or '..' as a "
                "part, no backslash and no control characters",
            )
    problem = template_problem(filepath, filename)
    if problem is not None:
        raise _invalid(f"destination.path.{problem[0]}", problem[1])
    return filepath, filename


def _check_keys(layout: Layout) -> None:
    """With the variables filled in, the parts of a key and the whole may be longer than the templates."""
    ulid = "0" * ULID_LENGTH
    for key in (file_key(layout, 0, ulid), file_key(layout, 0, ulid, dead=True)):
        for part in key.split("/"):
            if len(part.encode()) > _NAME_BYTES_MAX:
                raise _invalid(
                    "destination.path",
                    f"makes names of {len(part.encode())} bytes (with the variables filled in); file systems take "
                    f"{_NAME_BYTES_MAX} at most: shorten filename or filepath",
                )
        if len(key.encode()) > limits.S3_KEY_BYTES_MAX:
            raise _invalid(
                "destination.path",
                f"makes keys of {len(key.encode())} bytes (with the variables filled in); S3 takes "
                f"{limits.S3_KEY_BYTES_MAX} at most: shorten prefix, filepath or filename",
            )


def _check_partition_time(time: PartitionTime | None) -> None:
    if time is not None and not _FIELD_NAME.fullmatch(time.field):
        raise _invalid(
            "destination.partition_time.field",
            f"must be 1 to {limits.FIELD_NAME_LENGTH_MAX} characters, without quotation marks, backslashes and "
            "control characters",
        )


def _check_transforms(asked: list[TransformRef], known: Collection[str]) -> None:
    if len(asked) > limits.TRANSFORMS_MAX:
        raise _invalid("transforms", f"must be at most {limits.TRANSFORMS_MAX}")
    for transform in asked:
        if transform.name not in known:
            there_are = ", ".join(sorted(known)) or "none: start the server with --app"
            raise _invalid(
                "transforms", f"names {transform.name[:64]!r}, which the application has not; it has {there_are}"
            )


def check_name(name: str) -> None:
    """Raises `Invalid` unless `name` can be a pipeline's."""
    if not NAME.fullmatch(name):
        raise Invalid(
            f"name {_NAME_RULE}.",
            code=CODE_INVALID_NAME,
        )


def _checked_source(source: Source) -> Source:
    if not isinstance(source, HttpSource) or not source.cors:
        return source
    origins = source.cors.origins
    if len(origins) > limits.CORS_ORIGINS_MAX:
        raise _invalid("source.cors.origins", f"must be at most {limits.CORS_ORIGINS_MAX}")
    return msgspec.structs.replace(
        source, cors=Cors([_checked_origin(index, origin) for index, origin in enumerate(origins)])
    )


def _checked_origin(index: int, origin: str) -> str:
    """As a browser sends it: in lower case, without a port that goes without saying."""
    if origin == "*":
        return origin
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or int(match["port"] or 0) > 65_535 or len(origin) > limits.ORIGIN_LENGTH_MAX:
        raise _invalid(
            f"source.cors.origins[{index}]",
            f"is {origin[:100]!r}; it must be an origin like 'https://example.com' or 'http://localhost:3000' "
            "(scheme, host and maybe a port, nothing after it), or '*' for any",
        )
    default_port = {"http": "80", "https": "443"}.get(match["scheme"])
    port = f":{match['port']}" if match["port"] and match["port"] != default_port else ""
    return f"{match['scheme']}://{match['host']}{port}"


def _checked_prefix(prefix: str) -> str:
    prefix = prefix.strip("/")
    if not prefix:
        return ""
    parts_fit = all(map(_fits_as_name, prefix.split("/")))
    if not parts_fit or len(prefix) > limits.PREFIX_LENGTH_MAX:
        raise _invalid(
            "destination.path.prefix",
            f"must be at most {limits.PREFIX_LENGTH_MAX} characters, with parts of 1 to 255 bytes between slashes, "
            "no '.' or '..' as a part, no backslash and no control characters",
        )
    return prefix


def _fits_as_name(part: str) -> bool:
    """Each part of a key becomes a folder's name: 255 bytes is what file systems take."""
    fits = _NAME_PART.fullmatch(part) and part not in (".", "..") and not part.startswith("_dead")
    return bool(fits) and len(part.encode("utf-8", "replace")) <= _NAME_BYTES_MAX


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
