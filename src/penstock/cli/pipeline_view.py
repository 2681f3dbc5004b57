"""A pipeline, its shards and its deployments, in words and cells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from penstock.base.limits import BATCH_SECONDS_MAX_DEFAULT
from penstock.cli.output import printable
from penstock.cli.pipeline_settings import BYTES_PER_MB, requires_http_auth
from penstock.cli.sizes import format_bytes

Json = dict[str, Any]

#: A first file that takes longer than this is worth a word about making it sooner.
_SOON_SECONDS = 10

SHARD_COLUMNS = ("SHARD", "VERSION", "STATE", "EXECUTOR", "RECORDS", "BYTES", "OLDEST", "FAILURES", "NEXT TRY")
SHARD_NUMBERS = ("VERSION", "EXECUTOR", "RECORDS", "BYTES", "FAILURES")
DEPLOYMENT_COLUMNS = ("VERSION", "STATE", "CREATED", "DRAINED", "SHARDS", "CHANGED")
DEPLOYMENT_NUMBERS = ("VERSION", "SHARDS")


def has_http(pipeline: Json) -> bool:
    return any(source.get("type") == "http" for source in pipeline.get("source") or [])


def settings_rows(pipeline: Json) -> list[tuple[str, str]]:
    """The settings in the order in which a record meets them. What the server left out is left out."""
    destination = pipeline.get("destination") or {}
    path = destination.get("path") or {}
    hints = [hint for _, hint in _hints(destination.get("batch") or {}) if hint]
    rows: list[tuple[str, Any]] = [
        ("Id", pipeline.get("id")),
        ("Name", pipeline.get("name")),
        ("Version", pipeline.get("version")),
        ("Status", _status(pipeline)),
        ("Backlog", _backlog(pipeline.get("backlog"))),
        ("Endpoint", pipeline.get("endpoint")),
        ("Sources", ", ".join(str(source.get("type")) for source in pipeline.get("source") or [])),
        ("Authentication", "on" if requires_http_auth(pipeline) else "off"),
        ("CORS origins", ", ".join(_cors_origins(pipeline))),
        ("Shards", (pipeline.get("metadata") or {}).get("shards")),
        ("Transforms", ", ".join(_transforms(pipeline))),
        ("Format", destination.get("format")),
        ("Destination", place(destination)),
        ("Bucket at", _server(destination.get("credentials"))),
        ("Folders", path.get("filepath")),
        ("File names", path.get("filename")),
        ("Partition by", _partition(destination.get("partition_time"))),
        ("Compression", (destination.get("compression") or {}).get("type")),
        ("Batch hints", ", ".join(hints) + (", whichever comes first" if len(hints) > 1 else "")),
    ]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def trouble(pipeline: Json) -> str | None:
    """Why files do not get where they should, and what to do; None if they do."""
    name, retry_at = pipeline.get("name"), _time(_next_try(pipeline))
    again = f"It is tried again by itself, next at {retry_at}" if retry_at else "It is tried again by itself"
    if pipeline.get("status") == "paused":
        key = ""
        if (pipeline.get("destination") or {}).get("credentials"):
            key = f", and at once with another key: penstock pipelines update {name} --access-key-id ID"
        return (
            f"Delivery is paused since {_time(pipeline.get('paused_since'))}: "
            f"{printable(str(pipeline.get('failure_reason')))}\n"
            "Put that right; no record is lost, and new ones are taken until the disk budget is used up.\n"
            f"{again}{key}"
        )
    errors = [shard["last_error"] for shard in _shards(pipeline) if shard.get("last_error")]
    if errors:
        return f"Files could not be delivered: {printable(str(errors[0]))}\n{again}; no record is lost."
    return None


def shard_rows(pipeline: Json) -> list[list[str]]:
    """Those that are not drained, as `SHARD_COLUMNS`."""
    return [_shard_row(shard, str(pipeline.get("id"))) for shard in _shards(pipeline)]


def deployment_rows(deployments: list[Json]) -> list[list[str]]:
    """As `DEPLOYMENT_COLUMNS`; the newest first, as they are given."""
    before = [*deployments[1:], None]
    return [_deployment_row(*pair) for pair in zip(deployments, before, strict=True)]


def first_file(pipeline: Json) -> str:
    """When and where the first file appears. The command knows the API alone, so the folder is the server's."""
    destination = pipeline.get("destination") or {}
    seconds = (destination.get("batch") or {}).get("max_duration_s", BATCH_SECONDS_MAX_DEFAULT)
    sooner = f"; --batch-max-seconds {_SOON_SECONDS} shows it sooner" if seconds > _SOON_SECONDS else ""
    where = f"buckets/{place(destination)} in the server's data directory"
    if credentials := destination.get("credentials"):
        where = f"{place(destination)} at {credentials.get('endpoint')}"
    return f"The first file appears within {seconds:g} s of the first record, in {where}{sooner}."


def waiting(pipeline: Json) -> str:
    """What is in no file yet: `1,234 records (5.6 MB)`."""
    backlog = pipeline.get("backlog") or {}
    return f"{backlog.get('records', 0):,} records ({format_bytes(backlog.get('bytes', 0))})"


def place(destination: Json) -> str:
    path = destination.get("path") or {}
    return "/".join(str(part).strip("/") for part in (path.get("bucket"), path.get("prefix")) if part)


def differences(before: Json, after: Json) -> list[str]:
    """What two deployments of a pipeline have different: `compression gzip → zstd`."""
    old, new = dict(_aspects(before)), dict(_aspects(after))
    changed = [f"{name} {old[name]} → {new[name]}" for name in old if old[name] != new[name]]
    # A key is all that a generation can have different and nobody is shown.
    return changed or ["access to the bucket"]


def _aspects(deployment: Json) -> Iterator[tuple[str, str]]:
    """Everything that can change, in words; the same names for every deployment."""
    destination = deployment.get("destination") or {}
    yield "sources", ", ".join(str(source.get("type")) for source in deployment.get("source") or [])
    yield "authentication", "on" if requires_http_auth(deployment) else "off"
    yield "cors", ", ".join(_cors_origins(deployment)) or "none"
    yield "shards", str((deployment.get("metadata") or {}).get("shards", "by load"))
    yield "transforms", ", ".join(_transforms(deployment)) or "none"
    yield "code", str(deployment.get("code_version") or "none")
    yield "bucket at", _server(destination.get("credentials")) or "the server itself"
    yield "partition by", _partition(destination.get("partition_time")) or "none"
    yield "compression", str((destination.get("compression") or {}).get("type"))
    path, batch = destination.get("path") or {}, destination.get("batch") or {}
    yield "bucket", str(path.get("bucket"))
    yield "prefix", str(path.get("prefix") or "none")
    yield "folders", str(path.get("filepath", "by default"))
    yield "file names", str(path.get("filename", "by default"))
    for label, hint in _hints(batch):
        yield label, hint or "by default"


def _deployment_row(deployment: Json, before: Json | None) -> list[str]:
    changed = "" if before is None else "; ".join(differences(before, deployment))
    return [
        str(deployment.get("version")),
        str(deployment.get("state")),
        _time(deployment.get("created_at")),
        _time(deployment.get("drained_at")),
        str(deployment.get("shards")),
        printable(changed),
    ]


def _shard_row(shard: Json, id: str) -> list[str]:
    backlog: Json | None = shard.get("backlog")
    state = [str(shard.get("state"))]
    if not shard.get("reachable", True):
        state.append("not reachable")
    if shard.get("paused"):
        state.append("paused")
    if backlog is None:
        held = ["?"] * 4
    else:
        held = [
            f"{backlog.get('records', 0):,}",
            format_bytes(backlog.get("bytes", 0)),
            _time(backlog.get("oldest_at")),
            str(shard.get("failures", 0)),
        ]
    return [
        str(shard.get("name")).removeprefix(f"{id}/"),
        str(shard.get("version")),
        ", ".join(state),
        str(shard.get("executor")),
        *held,
        _time(shard.get("retry_at")),
    ]


def _shards(pipeline: Json) -> list[Json]:
    return pipeline.get("shards") or []


def _next_try(pipeline: Json) -> str | None:
    return min((shard["retry_at"] for shard in _shards(pipeline) if shard.get("retry_at")), default=None)


def _status(pipeline: Json) -> str | None:
    status = pipeline.get("status")
    if status == "running" and any(shard.get("failures") for shard in _shards(pipeline)):
        return "running, but files cannot be delivered now"
    return status


def _backlog(backlog: Json | None) -> str | None:
    if backlog is None:
        return None
    oldest = f", the oldest of {_time(backlog['oldest_at'])}" if backlog.get("oldest_at") else ""
    return waiting({"backlog": backlog}) + oldest


def _cors_origins(pipeline: Json) -> Iterable[str]:
    for source in pipeline.get("source") or []:
        yield from map(str, (source.get("cors") or {}).get("origins") or [])


def _transforms(pipeline: Json) -> Iterable[str]:
    return (str(transform.get("name")) for transform in pipeline.get("transforms") or [])


def _server(credentials: Json | None) -> str:
    if not credentials:
        return ""
    style = "" if credentials.get("path_style", True) else ", bucket in the host name"
    return f"{credentials.get('endpoint')} (region {credentials.get('region')}{style})"


def _partition(time: Json | None) -> str:
    return f"{time.get('field')} ({time.get('format')})" if time else ""


def _hints(batch: Json) -> list[tuple[str, str]]:
    """What makes a file due, empty where the server says nothing of it."""
    size, seconds, rows = (batch.get(name) for name in ("max_bytes", "max_duration_s", "max_rows"))
    return [
        ("batch size", "" if size is None else f"{size / BYTES_PER_MB:g} MB"),
        ("batch age", "" if seconds is None else f"{seconds:g} s"),
        ("batch records", "" if rows is None else f"{rows:,} records"),
    ]


def _time(text: object) -> str:
    """The API's `2026-11-25T02:14:05.123Z` as `2026-11-25 02:14:05Z`."""
    if not isinstance(text, str):
        return ""
    date, _, rest = text.partition("T")
    return f"{date} {rest[:8]}Z"
