"""`penstock pipelines create | list | get | update | delete`, in wrangler's words."""

from __future__ import annotations

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.base.limits import BATCH_SECONDS_MAX_DEFAULT
from penstock.cli import output
from penstock.cli.errors import ApiError
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url
from penstock.cli.own_command import data_dir_flag, own_command
from penstock.cli.pipeline_names import Name
from penstock.cli.pipeline_settings import (
    BYTES_PER_MB,
    Flags,
    describe,
    in_words_of_flags,
    merge,
    requires_http_auth,
)
from penstock.cli.pipeline_tail import tail
from penstock.cli.pipeline_usage import usage
from penstock.cli.target import read_target, read_token

Json = dict[str, Any]

app = typer.Typer(help="Make, look at, change and delete pipelines.", no_args_is_help=True)


class Source(StrEnum):
    http = "http"
    binding = "binding"


class Compression(StrEnum):
    none = "none"
    gzip = "gzip"


NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline: letters, digits and hyphens.")]


class _Flag:
    """A flag of `create`, with its default, and of `update`, where what is not given is unchanged."""

    def __init__(self, *names: str, help: str, default: str | None, metavar: str | None = None) -> None:
        self._names, self._help, self._default, self._metavar = names, help, default, metavar

    def created(self) -> Any:
        return self._option(self._default)

    def changed(self) -> Any:
        return self._option("unchanged")

    def _option(self, default: str | None) -> Any:
        return typer.Option(*self._names, help=self._help, metavar=self._metavar, show_default=default or False)


_BUCKET = _Flag("--bucket", "--r2-bucket", help="Bucket that the files go to.", default=None, metavar="BUCKET")
_PREFIX = _Flag("--prefix", "--r2-prefix", help="Folder inside the bucket.", default="none", metavar="FOLDER")
_BATCH_MAX_MB = _Flag(
    "--batch-max-mb", help="A file is due at this size, in megabytes (up to 100).", default="100", metavar="MB"
)
_BATCH_MAX_ROWS = _Flag(
    "--batch-max-rows",
    help="A file is due at this many records (up to 10,000,000).",
    default="10,000,000",
    metavar="COUNT",
)
_BATCH_MAX_SECONDS = _Flag(
    "--batch-max-seconds",
    help="A file is due at this age, in seconds (0.25 to 300).",
    default="300",
    metavar="SECONDS",
)
_COMPRESSION = _Flag("--compression", help="Compression of the files.", default="gzip")
_REQUIRE_HTTP_AUTH = _Flag(
    "--require-http-auth/--no-require-http-auth",
    help="Whether the ingest endpoint wants a token.",
    default="it does not",
)
_SHARD_COUNT = _Flag(
    "--shard-count",
    help="Shards that take records in parallel (1 to 15).",
    default="one per executor, at least 2",
    metavar="COUNT",
)
_SOURCE = _Flag("--source", help="Where records come from; repeat it for both.", default="both")

Bucket = Annotated[str, _BUCKET.created()]
BucketChange = Annotated[str | None, _BUCKET.changed()]
Prefix = Annotated[str | None, _PREFIX.created()]
PrefixChange = Annotated[str | None, _PREFIX.changed()]
BatchMaxMb = Annotated[float | None, _BATCH_MAX_MB.created()]
BatchMaxMbChange = Annotated[float | None, _BATCH_MAX_MB.changed()]
BatchMaxRows = Annotated[int | None, _BATCH_MAX_ROWS.created()]
BatchMaxRowsChange = Annotated[int | None, _BATCH_MAX_ROWS.changed()]
BatchMaxSeconds = Annotated[float | None, _BATCH_MAX_SECONDS.created()]
BatchMaxSecondsChange = Annotated[float | None, _BATCH_MAX_SECONDS.changed()]
CompressionOption = Annotated[Compression | None, _COMPRESSION.created()]
CompressionChange = Annotated[Compression | None, _COMPRESSION.changed()]
RequireHttpAuth = Annotated[bool | None, _REQUIRE_HTTP_AUTH.created()]
RequireHttpAuthChange = Annotated[bool | None, _REQUIRE_HTTP_AUTH.changed()]
ShardCount = Annotated[int | None, _SHARD_COUNT.created()]
ShardCountChange = Annotated[int | None, _SHARD_COUNT.changed()]
Sources = Annotated[list[Source] | None, _SOURCE.created()]
SourcesChange = Annotated[list[Source] | None, _SOURCE.changed()]

#: A first file that takes longer than this is worth a word about making it sooner.
_SOON_SECONDS = 10


@app.command()
def create(
    name: NewName,
    bucket: Bucket,
    prefix: Prefix = None,
    batch_max_mb: BatchMaxMb = None,
    batch_max_rows: BatchMaxRows = None,
    batch_max_seconds: BatchMaxSeconds = None,
    compression: CompressionOption = None,
    require_http_auth: RequireHttpAuth = None,
    shard_count: ShardCount = None,
    source: Sources = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Make a pipeline: an HTTP endpoint whose records arrive as files in a bucket."""
    flags = Flags(
        bucket=bucket,
        prefix=prefix,
        batch_max_mb=batch_max_mb,
        batch_max_rows=batch_max_rows,
        batch_max_seconds=batch_max_seconds,
        compression=compression.value if compression else None,
        require_http_auth=require_http_auth,
        shard_count=shard_count,
        sources=tuple(kind.value for kind in source or ()),
    )
    flags.check()
    server = _Server(url, account_id, token, data_dir)
    body = describe(name, flags)
    output.progress(f'🌀 Creating pipeline named "{name}"')
    try:
        pipeline = server.client.create_pipeline(body)
    except ApiError as error:
        raise in_words_of_flags(error) from None
    if json:
        output.print_json(pipeline)
        return
    typer.echo(f"✅ Created pipeline {name} with ID {pipeline.get('id')}\n")
    _show(pipeline, server)
    if _has_http(pipeline):
        typer.echo(f"{_first_file(pipeline)}\n")


@app.command("list")
def list_(
    search: Annotated[str | None, typer.Option(help="Only names that start with this.")] = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """List the pipelines of the account."""
    pipelines = list(_Server(url, account_id, token, data_dir).client.list_pipelines(search))
    if json:
        output.print_json(pipelines)
    elif pipelines:
        columns = ("name", "id", "endpoint")
        output.print_table(
            [column.upper() for column in columns],
            [[str(pipeline.get(column, "")) for column in columns] for pipeline in pipelines],
        )
    else:
        output.progress("There is no pipeline" + (f" whose name starts with {search!r}." if search else " yet."))


@app.command()
def get(
    name: Name,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Show the settings of a pipeline."""
    server = _Server(url, account_id, token, data_dir)
    pipeline = server.client.get_pipeline(name)
    if json:
        output.print_json(pipeline)
    else:
        _show(pipeline, server)


@app.command()
def update(
    context: typer.Context,
    name: Name,
    bucket: BucketChange = None,
    prefix: PrefixChange = None,
    batch_max_mb: BatchMaxMbChange = None,
    batch_max_rows: BatchMaxRowsChange = None,
    batch_max_seconds: BatchMaxSecondsChange = None,
    compression: CompressionChange = None,
    require_http_auth: RequireHttpAuthChange = None,
    shard_count: ShardCountChange = None,
    source: SourcesChange = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Change what the flags name and leave the rest; no record is lost on the way."""
    flags = Flags(
        bucket=bucket,
        prefix=prefix,
        batch_max_mb=batch_max_mb,
        batch_max_rows=batch_max_rows,
        batch_max_seconds=batch_max_seconds,
        compression=compression.value if compression else None,
        require_http_auth=require_http_auth,
        shard_count=shard_count,
        sources=tuple(kind.value for kind in source or ()),
    )
    if flags == Flags():
        raise typer.BadParameter(f"nothing to change: pass at least one of {_flags_of_update(context)}")
    flags.check()
    server = _Server(url, account_id, token, data_dir)
    output.progress(f'🌀 Updating pipeline "{name}"')
    found = server.client.get_pipeline(name)
    # What was asked for may have been its id.
    name = str(found.get("name", name))
    try:
        pipeline = server.client.replace_pipeline(name, merge(found, flags))
    except ApiError as error:
        raise in_words_of_flags(error) from None
    if json:
        output.print_json(pipeline)
        return
    typer.echo(f"✅ Updated pipeline {name} with ID {pipeline.get('id')}\n")
    _show(pipeline, server)


@app.command()
def delete(
    name: Name,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Delete a pipeline: its endpoint closes, its files stay."""
    name, result = _Server(url, account_id, token, data_dir).client.delete_pipeline(name)
    if json:
        output.print_json(result)
    else:
        typer.echo(f"✅ Deleted pipeline {name}")


app.command("usage")(usage)
app.command("tail")(tail)


def print_token(token: Token = None, data_dir: DataDir = DATA_DIR_DEFAULT) -> None:
    """Print the API token that the other commands would use, for a script or for curl.

    curl URL -H "Authorization: Bearer $(penstock token)" ...
    """
    typer.echo(read_token(data_dir=data_dir, environ=os.environ, token=token))


def curl_line(pipeline: Json, *, token: str) -> str:
    """The command that sends one record to `pipeline`, ready to paste; `token` is what a shell takes for it."""
    auth = f' -H "Authorization: Bearer {token}"' if requires_http_auth(pipeline) else ""
    endpoint = shlex.quote(str(pipeline.get("endpoint", "")))
    return f"""curl {endpoint}{auth} -d '[{{"event":"page_view","user":"u1"}}]'"""


class _Server:
    """The client of the server that the flags name, and how a shell finds the same token."""

    def __init__(self, url: str | None, account_id: str | None, token: str | None, data_dir: Path) -> None:
        from penstock.cli.client import Client

        target = read_target(data_dir=data_dir, environ=os.environ, url=url, account_id=account_id, token=token)
        self.client = Client(target)
        self._origin = target.token.origin
        self._data_dir = data_dir

    @property
    def shell_token(self) -> str:
        if self._origin in ("--token", "PENSTOCK_TOKEN"):
            return "$PENSTOCK_TOKEN"
        default = Path(os.environ.get("PENSTOCK_DATA_DIR") or DATA_DIR_DEFAULT)
        flag = "" if self._data_dir == default else data_dir_flag(self._data_dir)
        return f"$({own_command()} token{flag})"

    def token_note(self) -> str:
        return " (PENSTOCK_TOKEN is to hold the token that you gave)" if self._origin == "--token" else ""


def _flags_of_update(context: typer.Context) -> str:
    """The flags that change something, as `--help` lists them."""
    names = [parameter.opts[0] for parameter in context.command.params if parameter.name in Flags.__slots__]
    return ", ".join([*names, "--source"])


def _has_http(pipeline: Json) -> bool:
    return any(source.get("type") == "http" for source in pipeline.get("source") or [])


def _show(pipeline: Json, server: _Server) -> None:
    output.print_settings(_settings(pipeline))
    if _has_http(pipeline):
        note = server.token_note() if requires_http_auth(pipeline) else ""
        typer.echo(f"\nSend records to it{note}:\n\n  {curl_line(pipeline, token=server.shell_token)}\n")


def _first_file(pipeline: Json) -> str:
    """When and where the first file appears. The command knows the API alone, so the folder is the server's."""
    destination = pipeline.get("destination") or {}
    seconds = (destination.get("batch") or {}).get("max_duration_s", BATCH_SECONDS_MAX_DEFAULT)
    sooner = f"; --batch-max-seconds {_SOON_SECONDS} shows it sooner" if seconds > _SOON_SECONDS else ""
    return (
        f"The first file appears within {seconds:g} s of the first record, in buckets/{_place(destination)} in the "
        f"server's data directory{sooner}."
    )


def _place(destination: Json) -> str:
    path = destination.get("path") or {}
    return "/".join(str(part).strip("/") for part in (path.get("bucket"), path.get("prefix")) if part)


def _settings(pipeline: Json) -> list[tuple[str, str]]:
    """The settings in the order in which a record meets them. What the server left out is left out."""
    sources = pipeline.get("source") or []
    destination = pipeline.get("destination") or {}
    batch = destination.get("batch") or {}
    shards = (pipeline.get("metadata") or {}).get("shards")
    rows: list[tuple[str, Any]] = [
        ("Id", pipeline.get("id")),
        ("Name", pipeline.get("name")),
        ("Version", pipeline.get("version")),
        ("Endpoint", pipeline.get("endpoint")),
        ("Sources", ", ".join(str(source.get("type")) for source in sources)),
        ("Authentication", "on" if requires_http_auth(pipeline) else "off"),
        ("Shards", shards),
        ("Format", destination.get("format")),
        ("Destination", _place(destination)),
        ("Compression", (destination.get("compression") or {}).get("type")),
        ("Batch hints", _batch(batch)),
    ]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def _batch(batch: Json) -> str:
    parts = []
    if (size := batch.get("max_bytes")) is not None:
        parts.append(f"{size / BYTES_PER_MB:g} MB")
    if (seconds := batch.get("max_duration_s")) is not None:
        parts.append(f"{seconds:g} s")
    if (rows := batch.get("max_rows")) is not None:
        parts.append(f"{rows:,} records")
    return ", ".join(parts) + (", whichever comes first" if len(parts) > 1 else "")
