"""`penstock pipelines create | list | get | update | delete | deployments`, in wrangler's words."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.errors import ApiError, CliError, WrongFlag
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.own_command import data_dir_flag, own_command
from penstock.cli.pipeline_flags import (
    AccessKeyId,
    AccessKeyIdChange,
    BatchMaxMb,
    BatchMaxMbChange,
    BatchMaxRows,
    BatchMaxRowsChange,
    BatchMaxSeconds,
    BatchMaxSecondsChange,
    Bucket,
    BucketChange,
    CompressionChange,
    CompressionOption,
    CorsOrigins,
    CorsOriginsChange,
    Endpoint,
    EndpointChange,
    Filename,
    FilenameChange,
    Filepath,
    FilepathChange,
    LocalChange,
    NoPartitionByChange,
    NoTransformsChange,
    PartitionBy,
    PartitionByChange,
    PartitionFormat,
    PartitionFormatChange,
    PathStyle,
    PathStyleChange,
    Prefix,
    PrefixChange,
    Region,
    RegionChange,
    RequireHttpAuth,
    RequireHttpAuthChange,
    SecretAccessKey,
    SecretAccessKeyChange,
    ShardCount,
    ShardCountChange,
    Sources,
    SourcesChange,
    TransformNames,
    TransformNamesChange,
    flags_of,
    read_flags,
)
from penstock.cli.pipeline_names import Name
from penstock.cli.pipeline_settings import Flags, describe, in_words_of_flags, merge, requires_http_auth
from penstock.cli.pipeline_view import (
    DEPLOYMENT_COLUMNS,
    DEPLOYMENT_NUMBERS,
    SHARD_COLUMNS,
    SHARD_NUMBERS,
    deployment_rows,
    first_file,
    has_http,
    settings_rows,
    shard_rows,
    trouble,
    waiting,
)
from penstock.cli.target import read_target, read_token

Json = dict[str, Any]

app = typer.Typer(help="Make, look at, change and delete pipelines.", no_args_is_help=True)

NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline: letters, digits and hyphens.")]


@app.command()
def create(
    context: typer.Context,
    name: NewName,
    bucket: Bucket,
    prefix: Prefix = None,
    filepath: Filepath = None,
    filename: Filename = None,
    endpoint: Endpoint = None,
    region: Region = None,
    access_key_id: AccessKeyId = None,
    secret_access_key: SecretAccessKey = None,
    path_style: PathStyle = None,
    batch_max_mb: BatchMaxMb = None,
    batch_max_rows: BatchMaxRows = None,
    batch_max_seconds: BatchMaxSeconds = None,
    compression: CompressionOption = None,
    partition_by: PartitionBy = None,
    partition_format: PartitionFormat = None,
    transform: TransformNames = None,
    require_http_auth: RequireHttpAuth = None,
    cors_origins: CorsOrigins = None,
    source: Sources = None,
    shard_count: ShardCount = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Make a pipeline: an HTTP endpoint whose records arrive as files in a bucket."""
    flags = _checked(read_flags(context.params))
    body = describe(name, flags)
    server = _Server(url, account_id, token, data_dir)
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
    if has_http(pipeline):
        typer.echo(f"{first_file(pipeline)}\n")


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
    """Show a pipeline: its settings, whether its files get where they should, what waits in which shard."""
    server = _Server(url, account_id, token, data_dir)
    pipeline = server.client.get_pipeline(name)
    if json:
        output.print_json(pipeline)
        return
    _show(pipeline, server, shard_rows(pipeline))


@app.command()
def update(
    context: typer.Context,
    name: Name,
    bucket: BucketChange = None,
    prefix: PrefixChange = None,
    filepath: FilepathChange = None,
    filename: FilenameChange = None,
    endpoint: EndpointChange = None,
    region: RegionChange = None,
    access_key_id: AccessKeyIdChange = None,
    secret_access_key: SecretAccessKeyChange = None,
    path_style: PathStyleChange = None,
    local: LocalChange = False,
    batch_max_mb: BatchMaxMbChange = None,
    batch_max_rows: BatchMaxRowsChange = None,
    batch_max_seconds: BatchMaxSecondsChange = None,
    compression: CompressionChange = None,
    partition_by: PartitionByChange = None,
    partition_format: PartitionFormatChange = None,
    no_partition_by: NoPartitionByChange = False,
    transform: TransformNamesChange = None,
    no_transforms: NoTransformsChange = False,
    require_http_auth: RequireHttpAuthChange = None,
    cors_origins: CorsOriginsChange = None,
    source: SourcesChange = None,
    shard_count: ShardCountChange = None,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Change what the flags name and leave the rest; no record is lost on the way."""
    flags = read_flags(context.params)
    if flags == Flags():
        raise typer.BadParameter(f"nothing to change: pass at least one of {flags_of(context)}")
    flags = _checked(flags)
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
def deployments(
    name: Name,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Show the versions of a pipeline: which takes records, which still deliver theirs, what each changed."""
    found = connect(url, account_id, token, data_dir).list_deployments(name)
    if json:
        output.print_json(found)
    else:
        output.print_table(DEPLOYMENT_COLUMNS, deployment_rows(found), right=DEPLOYMENT_NUMBERS)


@app.command()
def delete(
    name: Name,
    discard: Annotated[
        bool, typer.Option("--discard", help="Lose the records that are in no file yet; do not deliver them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to discard.")] = False,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Delete a pipeline: its endpoint closes, records that wait are delivered, its files stay."""
    client = connect(url, account_id, token, data_dir)
    if discard and not yes:
        if not sys.stdin.isatty():
            raise WrongFlag("--discard loses records: pass --yes as well where nobody can be asked.")
        found = client.get_pipeline(name)
        name, lost = str(found.get("name", name)), waiting(found)
        if not typer.confirm(f"Delete {name} and lose {lost} that are in no file yet?", err=True):
            raise CliError("nothing was deleted")
    name, result = client.delete_pipeline(name, discard=discard)
    if json:
        output.print_json(result)
    else:
        typer.echo(f"✅ Deleted pipeline {name}")


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


def _checked(flags: Flags) -> Flags:
    """The flags, with the key of an S3 server from the environment if it is not among them."""
    flags = flags.with_key(os.environ)
    flags.check()
    if flags.warning:
        output.progress(flags.warning)
    return flags


def _show(pipeline: Json, server: _Server, shards: list[list[str]] | None = None) -> None:
    output.print_settings(settings_rows(pipeline))
    if (text := trouble(pipeline)) is not None:
        typer.echo(f"\n{text}")
    if shards:
        typer.echo()
        output.print_table(SHARD_COLUMNS, shards, right=SHARD_NUMBERS, indent=2)
    if has_http(pipeline):
        note = server.token_note() if requires_http_auth(pipeline) else ""
        typer.echo(f"\nSend records to it{note}:\n\n  {curl_line(pipeline, token=server.shell_token)}\n")
