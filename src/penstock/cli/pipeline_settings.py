"""A pipeline's description: from flags, and flags merged into one that exists. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
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
from penstock.cli.errors import ApiError, CliError, WrongFlag

Json = dict[str, Any]

#: The API counts bytes and the flag megabytes, decimal: its largest value, 100, is the limit of 100,000,000.
BYTES_PER_MB = 1_000_000

#: What the server calls the values of flags whose range it alone knows.
_FLAG_OF_FIELD = {
    "destination.path.bucket": "--bucket",
    "destination.path.prefix": "--prefix",
    "destination.compression.type": "--compression",
    "source.cors.origins": "--cors-origins",
}


@dataclass(frozen=True, slots=True)
class Flags:
    """What the user asked for; None where a flag was not given."""

    bucket: str | None = None
    prefix: str | None = None
    batch_max_mb: float | None = None
    batch_max_rows: int | None = None
    batch_max_seconds: float | None = None
    compression: str | None = None
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


def in_words_of_flags(error: ApiError) -> ApiError:
    """`error` with the flag in place of the field that the server names at the beginning."""
    field, space, rest = str(error).partition(" ")
    flag = _FLAG_OF_FIELD.get(re.sub(r"\[\d+\]$", "", field))
    if flag is None:
        return error
    return ApiError(f"{flag}{space}{rest}", status=error.status, code=error.code)


def split_origins(values: Iterable[str]) -> tuple[str, ...]:
    """Origins from flags that may be repeated, hold several with commas between, or none, to clear the list."""
    return tuple(origin.strip() for value in values for origin in value.split(",") if origin.strip())


def describe(name: str, flags: Flags) -> Json:
    """The body that creates a pipeline: the defaults with the flags merged in. `bucket` must be given."""
    if not flags.bucket:
        raise CliError("a pipeline needs a bucket for its files: pass --bucket")
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
    if flags.batch_max_mb is not None:
        batch["max_bytes"] = round(flags.batch_max_mb * BYTES_PER_MB)
    if flags.batch_max_rows is not None:
        batch["max_rows"] = flags.batch_max_rows
    if flags.batch_max_seconds is not None:
        batch["max_duration_s"] = _number(flags.batch_max_seconds)
    if flags.compression is not None:
        destination["compression"] = {"type": flags.compression}
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
