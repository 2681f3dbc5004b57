"""A pipeline's description: from flags, and flags merged into one that exists. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.base.limits import (
    BATCH_BYTES_MAX_DEFAULT,
    BATCH_BYTES_MAX_RANGE,
    BATCH_RECORDS_MAX_DEFAULT,
    BATCH_RECORDS_MAX_RANGE,
    BATCH_SECONDS_MAX_DEFAULT,
    BATCH_SECONDS_MAX_RANGE,
    SHARDS_MAX,
)
from penstock.cli.access_key import complete_key
from penstock.cli.errors import ApiError, CliError, WrongFlag

Json = dict[str, Any]

#: The API counts bytes and the flag megabytes, decimal: its largest value, 100, is the limit of 100,000,000.
BYTES_PER_MB = 1_000_000

#: What the server calls the values of flags whose range it alone knows.
_FLAG_OF_FIELD = {
    "destination.path.bucket": "--bucket",
    "destination.path.prefix": "--prefix",
    "destination.path.filepath": "--filepath",
    "destination.path.filename": "--filename",
    "destination.compression.type": "--compression",
    "destination.partition_time.field": "--partition-by",
    "destination.partition_time.format": "--partition-format",
    "destination.credentials": "--endpoint",
    "destination.credentials.endpoint": "--endpoint",
    "destination.credentials.region": "--region",
    "destination.credentials.access_key_id": "--access-key-id",
    "destination.credentials.secret_access_key": "--secret-access-key",
    "transforms": "--transform",
    "source.cors.origins": "--cors-origins",
}
#: What the server calls flags in the middle of a sentence.
_FLAGS_INSIDE = re.compile(r"\b(access_key_id|secret_access_key|path_style)\b")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the user asked for; None where a flag was not given."""

    bucket: str | None = None
    prefix: str | None = None
    filepath: str | None = None
    filename: str | None = None
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    path_style: bool | None = None
    #: Back from an S3 server to a folder of the server.
    local: bool = False
    batch_max_mb: float | None = None
    batch_max_rows: int | None = None
    batch_max_seconds: float | None = None
    compression: str | None = None
    partition_by: str | None = None
    partition_format: str | None = None
    no_partition_by: bool = False
    #: None where not given; empty to have none any more.
    transforms: tuple[str, ...] | None = None
    require_http_auth: bool | None = None
    shard_count: int | None = None
    sources: tuple[str, ...] = ()
    #: None where not given; empty to name none any more.
    cors_origins: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raises WrongFlag for a number that the server would refuse, in words of the flag instead of the field."""
        smallest_mb, largest_mb = (bytes / BYTES_PER_MB for bytes in BATCH_BYTES_MAX_RANGE)
        for flag, value, (low, high) in (
            ("--batch-max-mb", self.batch_max_mb, (smallest_mb, largest_mb)),
            ("--batch-max-rows", self.batch_max_rows, BATCH_RECORDS_MAX_RANGE),
            ("--batch-max-seconds", self.batch_max_seconds, BATCH_SECONDS_MAX_RANGE),
            ("--shard-count", self.shard_count, (1, SHARDS_MAX)),
        ):
            # Written so that not-a-number is refused, too.
            if value is not None and not low <= value <= high:
                raise WrongFlag(f"{flag} must be from {_plain(low)} to {_plain(high)}.")
        if self.local and self.bucket_server:
            raise WrongFlag(f"--local and {next(iter(self.bucket_server.values()))} contradict each other.")

    def with_key(self, environ: Mapping[str, str]) -> Flags:
        """With the access key whole, if one is asked for: by its id or secret, or by an endpoint. What the flags
        leave out of it comes from the environment. Raises WrongFlag."""
        if self.endpoint is self.access_key_id is self.secret_access_key is None:
            return self
        key = complete_key(self.access_key_id, self.secret_access_key, environ)
        return self if key is None else replace(self, access_key_id=key[0], secret_access_key=key[1])

    @property
    def bucket_server(self) -> dict[str, str]:
        """The fields given of those that say where the bucket is, with their flags."""
        fields = ("endpoint", "region", "access_key_id", "secret_access_key", "path_style")
        return {name: f"--{name.replace('_', '-')}" for name in fields if getattr(self, name) is not None}

    @property
    def warning(self) -> str | None:
        """What is allowed, and hardly meant."""
        if self.filepath and "$" not in self.filepath:
            return (
                f"--filepath is {self.filepath!r}, without a variable: all files go into one folder. (A shell "
                "takes variables away unless they stand in single quotes: '${date}'.)"
            )
        return None


def in_words_of_flags(error: ApiError) -> ApiError:
    """`error` with flags in place of the fields that the server names."""
    place, space, rest = str(error).partition(" ")
    flag = _FLAG_OF_FIELD.get(re.sub(r"\[\d+\]$", "", place))
    if flag is None and not place.startswith("destination"):
        return error
    rest = _FLAGS_INSIDE.sub(lambda match: f"--{match[1].replace('_', '-')}", rest)
    return ApiError(f"{flag or place}{space}{rest}", status=error.status, code=error.code)


def split_origins(values: Iterable[str]) -> tuple[str, ...]:
    """Origins from flags that may be repeated, hold several with commas between, or none, to clear the list."""
    return tuple(origin.strip() for value in values for origin in value.split(",") if origin.strip())


def describe(name: str, flags: Flags) -> Json:
    """The body that creates a pipeline: the defaults with the flags merged in. `bucket` must be given."""
    if not flags.bucket:
        raise CliError("a pipeline needs a bucket for its files: pass --bucket")
    if flags.endpoint is not None and flags.access_key_id is None:
        raise WrongFlag(
            "--endpoint needs a key: pass --access-key-id, and set PENSTOCK_S3_SECRET_ACCESS_KEY or pass "
            "--secret-access-key."
        )
    defaults: Json = {
        "name": name,
        "metadata": {},
        "source": [
            {"type": "http", "format": "json", "authentication": False},
            {"type": "binding", "format": "json"},
        ],
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": {
                "max_bytes": BATCH_BYTES_MAX_DEFAULT,
                "max_duration_s": _number(BATCH_SECONDS_MAX_DEFAULT),
                "max_rows": BATCH_RECORDS_MAX_DEFAULT,
            },
            "compression": {"type": "gzip"},
            "path": {},
        },
    }
    return merge(defaults, flags)


def merge(pipeline: Json, flags: Flags) -> Json:
    """A copy of `pipeline` in which what the flags name is changed and all else is as it was."""
    merged = copy.deepcopy(pipeline)
    destination = merged.setdefault("destination", {})
    path = destination.setdefault("path", {})
    batch = destination.setdefault("batch", {})
    if flags.bucket is not None:
        path["bucket"] = flags.bucket
    if flags.prefix is not None:
        path["prefix"] = flags.prefix
    if flags.filepath is not None:
        path["filepath"] = flags.filepath
    if flags.filename is not None:
        path["filename"] = flags.filename
    _merge_bucket_server(destination, flags)
    if flags.batch_max_mb is not None:
        batch["max_bytes"] = round(flags.batch_max_mb * BYTES_PER_MB)
    if flags.batch_max_rows is not None:
        batch["max_rows"] = flags.batch_max_rows
    if flags.batch_max_seconds is not None:
        batch["max_duration_s"] = _number(flags.batch_max_seconds)
    if flags.compression is not None:
        destination["compression"] = {"type": flags.compression}
    _merge_partition_time(destination, flags)
    if flags.transforms is not None:
        merged["transforms"] = [{"name": name} for name in flags.transforms]
    if flags.shard_count is not None:
        # Some servers answer with `"metadata": null`.
        merged["metadata"] = {**(merged.get("metadata") or {}), "shards": flags.shard_count}
    if flags.sources:
        merged["source"] = _sources(merged.get("source") or [], flags.sources)
    if flags.require_http_auth is not None:
        _http_source(merged, "--require-http-auth")["authentication"] = flags.require_http_auth
    if flags.cors_origins is not None:
        _http_source(merged, "--cors-origins")["cors"] = {"origins": list(flags.cors_origins)}
    return merged


def _merge_bucket_server(destination: Json, flags: Flags) -> None:
    if flags.local:
        destination["credentials"] = None
    given = flags.bucket_server
    if not given:
        return
    known = destination.get("credentials") or {}
    if flags.endpoint is not None and flags.endpoint.rstrip("/") != known.get("endpoint"):
        # Region and path style were those of another server.
        known = {}
    elif not known:
        raise WrongFlag(
            f"{next(iter(given.values()))} needs --endpoint: without one the files go into a folder of the server."
        )
    destination["credentials"] = {**known, **{name: getattr(flags, name) for name in given}}


def _merge_partition_time(destination: Json, flags: Flags) -> None:
    if flags.no_partition_by:
        destination.pop("partition_time", None)
    changes = {
        name: value
        for name, value in (("field", flags.partition_by), ("format", flags.partition_format))
        if value is not None
    }
    if not changes:
        return
    known = destination.get("partition_time")
    if not known and flags.partition_by is None:
        raise WrongFlag("--partition-format needs --partition-by.")
    destination["partition_time"] = {**(known or {}), **changes}


def requires_http_auth(pipeline: Json) -> bool:
    return any(s.get("type") == "http" and s.get("authentication") for s in pipeline.get("source") or [])


def _sources(existing: list[Json], wanted: tuple[str, ...]) -> list[Json]:
    """The wanted kinds of source, each with the settings that it has already."""
    known = {source.get("type"): source for source in existing}
    fresh: dict[str, Json] = {"http": {"authentication": False}}
    return [
        {"type": kind, "format": "json"} | fresh.get(kind, {}) | known.get(kind, {})
        for kind in dict.fromkeys(wanted)
    ]


def _http_source(pipeline: Json, flag: str) -> Json:
    for source in pipeline.get("source") or []:
        if source.get("type") == "http":
            return source  # type: ignore[no-any-return]
    raise CliError(f"{flag} needs an http source: add --source http")


def _plain(value: float) -> str:
    """`10,000,000`, `0.25`, `0.000001`."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
