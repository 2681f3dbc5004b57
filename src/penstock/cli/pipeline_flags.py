"""The flags of `penstock pipelines create` and `update`, declared once for both."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from penstock.cli.errors import WrongFlag
from penstock.cli.pipeline_settings import Flags, split_origins

_BUCKETS = "Where the files go"
_FILES = "How the files are made"
_RECORDS = "How records come in"


class Source(StrEnum):
    http = "http"
    binding = "binding"


class Compression(StrEnum):
    none = "none"
    gzip = "gzip"
    deflate = "deflate"
    zstd = "zstd"


class TimeFormat(StrEnum):
    rfc3339 = "rfc3339"
    unix_s = "unix_s"
    unix_ms = "unix_ms"


class _Flag:
    """A flag of `create`, with its default, and of `update`, where what is not given is unchanged."""

    def __init__(self, *names: str, help: str, default: str | None, panel: str, metavar: str | None = None) -> None:
        self._names, self._help, self._default, self._metavar = names, help, default, metavar
        self._panel = panel

    def created(self) -> Any:
        return self._option(self._default)

    def changed(self) -> Any:
        return self._option("unchanged")

    def _option(self, default: str | None) -> Any:
        return typer.Option(
            *self._names,
            help=self._help,
            metavar=self._metavar,
            show_default=default or False,
            rich_help_panel=self._panel,
        )


_BUCKET = _Flag(
    "--bucket",
    "--r2-bucket",
    help="Bucket that the files go to.",
    default=None,
    panel=_BUCKETS,
    metavar="BUCKET",
)
_PREFIX = _Flag(
    "--prefix",
    "--r2-prefix",
    help="Folder inside the bucket.",
    default="none",
    panel=_BUCKETS,
    metavar="FOLDER",
)
_FILEPATH = _Flag(
    "--filepath",
    help="Template of the folders below the prefix, in single quotes: '${date}', '${year}', '${month}', '${day}', "
    "'${hr}', '${minute}'.",
    default="event_date=${date}/hr=${hr}",
    panel=_BUCKETS,
    metavar="TEMPLATE",
)
_FILENAME = _Flag(
    "--filename",
    help="Template of a file's name, in single quotes; '${slug}' must be in it, '${extension}' and the variables "
    "of --filepath may be.",
    default="${slug}${extension}",
    panel=_BUCKETS,
    metavar="TEMPLATE",
)
_ENDPOINT = _Flag(
    "--endpoint",
    help="The S3 server that has the bucket.",
    default="none: a folder of the server",
    panel=_BUCKETS,
    metavar="URL",
)
_REGION = _Flag("--region", help="Region of the bucket.", default="auto", panel=_BUCKETS, metavar="REGION")
_ACCESS_KEY_ID = _Flag(
    "--access-key-id",
    "--r2-access-key-id",
    help="Access key for the S3 server, unless it is in the environment.",
    default=None,
    panel=_BUCKETS,
    metavar="ID",
)
_SECRET_ACCESS_KEY = _Flag(
    "--secret-access-key",
    "--r2-secret-access-key",
    help="Its secret; in the environment it stays out of the shell's history.",
    default=None,
    panel=_BUCKETS,
    metavar="SECRET",
)
_PATH_STYLE = _Flag(
    "--path-style/--no-path-style",
    help="Whether the bucket stands in the path of a URL or in its host name.",
    default="in the path",
    panel=_BUCKETS,
)
_BATCH_MAX_MB = _Flag(
    "--batch-max-mb",
    help="A file is due at this size, in megabytes (up to 100).",
    default="100",
    panel=_FILES,
    metavar="MB",
)
_BATCH_MAX_ROWS = _Flag(
    "--batch-max-rows",
    help="A file is due at this many records (up to 10,000,000).",
    default="10,000,000",
    panel=_FILES,
    metavar="COUNT",
)
_BATCH_MAX_SECONDS = _Flag(
    "--batch-max-seconds",
    help="A file is due at this age, in seconds (0.25 to 300).",
    default="300",
    panel=_FILES,
    metavar="SECONDS",
)
_COMPRESSION = _Flag("--compression", help="Compression of the files.", default="gzip", panel=_FILES)
_PARTITION_BY = _Flag(
    "--partition-by",
    help="Field of a record whose time decides its folder, instead of the time at which it came.",
    default="none",
    panel=_FILES,
    metavar="FIELD",
)
_PARTITION_FORMAT = _Flag(
    "--partition-format",
    help="How that field writes a time: as text, in seconds or in milliseconds since 1970.",
    default="rfc3339",
    panel=_FILES,
)
_TRANSFORM = _Flag(
    "--transform",
    help="Transform of the server's application that records go through; repeat it for more, in their order.",
    default="none",
    panel=_FILES,
    metavar="NAME",
)
_REQUIRE_HTTP_AUTH = _Flag(
    "--require-http-auth/--no-require-http-auth",
    help="Whether the ingest endpoint wants a token.",
    default="it does not",
    panel=_RECORDS,
)
_SHARD_COUNT = _Flag(
    "--shard-count",
    help="Shards that take records in parallel (1 to 15), whatever the load.",
    default="at least 2 and one per executor, more under load",
    panel=_RECORDS,
    metavar="COUNT",
)
_SOURCE = _Flag("--source", help="Where records come from; repeat it for both.", default="both", panel=_RECORDS)
_CORS_ORIGINS = _Flag(
    "--cors-origins",
    help="Origins whose web pages may see the endpoint's answers, '*' for any; repeat it or put commas between.",
    default="none",
    panel=_RECORDS,
    metavar="ORIGINS",
)

Bucket = Annotated[str, _BUCKET.created()]
BucketChange = Annotated[str | None, _BUCKET.changed()]
Prefix = Annotated[str | None, _PREFIX.created()]
PrefixChange = Annotated[str | None, _PREFIX.changed()]
Filepath = Annotated[str | None, _FILEPATH.created()]
FilepathChange = Annotated[str | None, _FILEPATH.changed()]
Filename = Annotated[str | None, _FILENAME.created()]
FilenameChange = Annotated[str | None, _FILENAME.changed()]
Endpoint = Annotated[str | None, _ENDPOINT.created()]
EndpointChange = Annotated[str | None, _ENDPOINT.changed()]
Region = Annotated[str | None, _REGION.created()]
RegionChange = Annotated[str | None, _REGION.changed()]
AccessKeyId = Annotated[str | None, _ACCESS_KEY_ID.created()]
AccessKeyIdChange = Annotated[str | None, _ACCESS_KEY_ID.changed()]
SecretAccessKey = Annotated[str | None, _SECRET_ACCESS_KEY.created()]
SecretAccessKeyChange = Annotated[str | None, _SECRET_ACCESS_KEY.changed()]
PathStyle = Annotated[bool | None, _PATH_STYLE.created()]
PathStyleChange = Annotated[bool | None, _PATH_STYLE.changed()]
LocalChange = Annotated[
    bool,
    typer.Option("--local", help="Back to a folder of the server; the key is forgotten.", rich_help_panel=_BUCKETS),
]
BatchMaxMb = Annotated[float | None, _BATCH_MAX_MB.created()]
BatchMaxMbChange = Annotated[float | None, _BATCH_MAX_MB.changed()]
BatchMaxRows = Annotated[int | None, _BATCH_MAX_ROWS.created()]
BatchMaxRowsChange = Annotated[int | None, _BATCH_MAX_ROWS.changed()]
BatchMaxSeconds = Annotated[float | None, _BATCH_MAX_SECONDS.created()]
BatchMaxSecondsChange = Annotated[float | None, _BATCH_MAX_SECONDS.changed()]
CompressionOption = Annotated[Compression | None, _COMPRESSION.created()]
CompressionChange = Annotated[Compression | None, _COMPRESSION.changed()]
PartitionBy = Annotated[str | None, _PARTITION_BY.created()]
PartitionByChange = Annotated[str | None, _PARTITION_BY.changed()]
PartitionFormat = Annotated[TimeFormat | None, _PARTITION_FORMAT.created()]
PartitionFormatChange = Annotated[TimeFormat | None, _PARTITION_FORMAT.changed()]
NoPartitionByChange = Annotated[
    bool,
    typer.Option(
        "--no-partition-by", help="Folders by the time at which records came again.", rich_help_panel=_FILES
    ),
]
TransformNames = Annotated[list[str] | None, _TRANSFORM.created()]
TransformNamesChange = Annotated[list[str] | None, _TRANSFORM.changed()]
NoTransformsChange = Annotated[
    bool, typer.Option("--no-transforms", help="Records stay as they were sent again.", rich_help_panel=_FILES)
]
RequireHttpAuth = Annotated[bool | None, _REQUIRE_HTTP_AUTH.created()]
RequireHttpAuthChange = Annotated[bool | None, _REQUIRE_HTTP_AUTH.changed()]
ShardCount = Annotated[int | None, _SHARD_COUNT.created()]
ShardCountChange = Annotated[int | None, _SHARD_COUNT.changed()]
Sources = Annotated[list[Source] | None, _SOURCE.created()]
SourcesChange = Annotated[list[Source] | None, _SOURCE.changed()]
CorsOrigins = Annotated[list[str] | None, _CORS_ORIGINS.created()]
CorsOriginsChange = Annotated[list[str] | None, _CORS_ORIGINS.changed()]

#: Parameters of the commands that become a flag of another name, or part of one.
_BY_HAND = ("source", "cors_origins", "transform", "no_transforms", "compression", "partition_format")


def read_flags(given: Mapping[str, Any]) -> Flags:
    """What was asked for, from the parameters of `create` or `update` by their names (`Context.params`, so that
    neither has to repeat all of them). Raises WrongFlag for flags that contradict each other."""
    for flag, opposite in (
        ("transform", "no_transforms"),
        ("partition_by", "no_partition_by"),
        ("partition_format", "no_partition_by"),
    ):
        if given.get(flag) and given.get(opposite):
            raise WrongFlag(f"{_spelled(flag)} and {_spelled(opposite)} contradict each other.")
    # Without the flag these are empty; `--cors-origins ''` is one empty text.
    transforms, origins = given.get("transform"), given.get("cors_origins")
    return Flags(
        **{name: given[name] for name in Flags.__slots__ if name in given and name not in _BY_HAND},
        compression=_text(given.get("compression")),
        partition_format=_text(given.get("partition_format")),
        transforms=() if given.get("no_transforms") else tuple(transforms) if transforms else None,
        sources=tuple(str(kind) for kind in given.get("source") or ()),
        cors_origins=split_origins(origins) if origins else None,
    )


def flags_of(command: typer.Context) -> str:
    """Those that say something about a pipeline, as `--help` lists them."""
    names = (*Flags.__slots__, *_BY_HAND)
    return ", ".join(parameter.opts[0] for parameter in command.command.params if parameter.name in names)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _spelled(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"
