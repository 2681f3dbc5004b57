"""`penstock pipelines create | list | get | update | delete`, in wrangler's words."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.pipeline_settings import BYTES_PER_MB, Flags, describe, merge, requires_http_auth

Json = dict[str, Any]

app = typer.Typer(help="Make, look at, change and delete pipelines.", no_args_is_help=True)


class Source(StrEnum):
    http = "http"
    binding = "binding"


class Compression(StrEnum):
    none = "none"
    gzip = "gzip"
    deflate = "deflate"


Name = Annotated[str, typer.Argument(help="Name of the pipeline: letters, digits and hyphens.")]

Bucket = Annotated[str, typer.Option("--bucket", "--r2-bucket", help="Bucket that the files go to.")]
BucketChange = Annotated[str | None, typer.Option("--bucket", "--r2-bucket", help="Bucket that the files go to.")]
Prefix = Annotated[
    str | None, typer.Option("--prefix", "--r2-prefix", help="Folder inside the bucket; default: none.")
]
BatchMaxMb = Annotated[
    float | None, typer.Option(help="A file is due at this size, in megabytes (up to 100, the default).")
]
BatchMaxRows = Annotated[
    int | None, typer.Option(help="A file is due at this many records (up to 10,000,000, the default).")
]
BatchMaxSeconds = Annotated[
    float | None, typer.Option(help="A file is due at this age, in seconds (0.25 to 300; default 300).")
]
CompressionOption = Annotated[Compression | None, typer.Option(help="Compression of the files; default: gzip.")]
RequireHttpAuth = Annotated[
    bool | None,
    typer.Option(
        "--require-http-auth/--no-require-http-auth",
        help="Whether the ingest endpoint wants a token; default: it does not.",
    ),
]
ShardCount = Annotated[int | None, typer.Option(help="Shards that take records in parallel (1 to 15).")]
Sources = Annotated[
    list[Source] | None, typer.Option("--source", help="Where records come from; repeat it. Default: both.")
]


@app.command()
def create(
    name: Name,
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
    client = connect(url, account_id, token, data_dir)
    body = describe(
        name,
        Flags(
            bucket=bucket,
            prefix=prefix,
            batch_max_mb=batch_max_mb,
            batch_max_rows=batch_max_rows,
            batch_max_seconds=batch_max_seconds,
            compression=compression.value if compression else None,
            require_http_auth=require_http_auth,
            shard_count=shard_count,
            sources=tuple(kind.value for kind in source or ()),
        ),
    )
    output.progress(f'🌀 Creating pipeline named "{name}"')
    pipeline = client.create_pipeline(body)
    if json:
        output.print_json(pipeline)
        return
    typer.echo(f"✅ Created pipeline {name} with ID {pipeline.get('id')}\n")
    _show(pipeline)


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
    pipelines = list(connect(url, account_id, token, data_dir).list_pipelines(search))
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
    pipeline = connect(url, account_id, token, data_dir).get_pipeline(name)
    if json:
        output.print_json(pipeline)
    else:
        _show(pipeline)


@app.command()
def update(
    name: Name,
    bucket: BucketChange = None,
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
        raise typer.BadParameter("nothing to change: pass at least one flag, see --help")
    client = connect(url, account_id, token, data_dir)
    output.progress(f'🌀 Updating pipeline "{name}"')
    pipeline = client.replace_pipeline(name, merge(client.get_pipeline(name), flags))
    if json:
        output.print_json(pipeline)
        return
    typer.echo(f"✅ Updated pipeline {name} with ID {pipeline.get('id')}\n")
    _show(pipeline)


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
    result = connect(url, account_id, token, data_dir).delete_pipeline(name)
    if json:
        output.print_json(result)
    else:
        typer.echo(f"✅ Deleted pipeline {name}")


def curl_line(pipeline: Json) -> str:
    """The command that sends one record to `pipeline`, ready to paste."""
    auth = ' -H "Authorization: Bearer $PENSTOCK_TOKEN"' if requires_http_auth(pipeline) else ""
    endpoint = shlex.quote(str(pipeline.get("endpoint", "")))
    return f"""curl {endpoint}{auth} -d '[{{"event":"page_view","user":"u1"}}]'"""


def _show(pipeline: Json) -> None:
    output.print_settings(_settings(pipeline))
    if any(source.get("type") == "http" for source in pipeline.get("source") or []):
        typer.echo(f"\nSend records to it:\n\n  {curl_line(pipeline)}\n")


def _settings(pipeline: Json) -> list[tuple[str, str]]:
    """The settings in the order in which a record meets them. What the server left out is left out."""
    sources = pipeline.get("source") or []
    destination = pipeline.get("destination") or {}
    batch, path = destination.get("batch") or {}, destination.get("path") or {}
    shards = (pipeline.get("metadata") or {}).get("shards")
    place = "/".join(str(part).strip("/") for part in (path.get("bucket"), path.get("prefix")) if part)
    rows: list[tuple[str, Any]] = [
        ("Id", pipeline.get("id")),
        ("Name", pipeline.get("name")),
        ("Version", pipeline.get("version")),
        ("Endpoint", pipeline.get("endpoint")),
        ("Sources", ", ".join(str(source.get("type")) for source in sources)),
        ("Authentication", "on" if requires_http_auth(pipeline) else "off"),
        ("Shards", shards),
        ("Format", destination.get("format")),
        ("Destination", place),
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
