"""`penstock serve`: flags into settings, nothing more."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.base.errors import Invalid
from penstock.base.limits import CONCURRENCY_LIMIT, EXECUTORS_MAX, Limits
from penstock.cli import output
from penstock.cli.errors import CliError, WrongFlag
from penstock.cli.own_command import data_dir_flag, own_command
from penstock.cli.sizes import format_bytes, parse_bytes
from penstock.cli.target import CREDENTIALS_FILE, DATA_DIR_DEFAULT

_DEFAULT = Limits()


class LogFormat(StrEnum):
    json = "json"
    console = "console"


def _cores() -> int:
    """The cores that this process may use: a container's share, not the machine's."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, EXECUTORS_MAX)


def _parse_size(text: str | int) -> int:
    if isinstance(text, int):
        return text
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _limit(field: str, help: str) -> Any:
    """The flag of one operator limit: `body_bytes_max` is `--body-bytes-max`, `PENSTOCK_BODY_BYTES_MAX`."""
    return typer.Option(
        f"--{field.replace('_', '-')}",
        envvar=f"PENSTOCK_{field.upper()}",
        parser=_parse_size,
        metavar="BYTES",
        show_default=format_bytes(getattr(_DEFAULT, field)),
        rich_help_panel="Limits",
        help=help,
    )


def _count(name: str, help: str, most: int | None = None) -> Any:
    """The option of an operator limit that is a number of something else than bytes."""
    return typer.Option(envvar=f"PENSTOCK_{name.upper()}", help=help, min=1, max=most, rich_help_panel="Limits")


def serve(
    data_dir: Annotated[
        Path,
        typer.Option(
            envvar="PENSTOCK_DATA_DIR",
            help="Everything the server keeps: databases, buckets, credentials.toml. Made when missing.",
        ),
    ] = DATA_DIR_DEFAULT,
    host: Annotated[str, typer.Option(envvar="PENSTOCK_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(envvar="PENSTOCK_PORT", min=0, max=65535, help="Port to listen on; 0 = any free one."),
    ] = 8787,
    app: Annotated[
        str | None,
        typer.Option(
            envvar="PENSTOCK_APP",
            metavar="FILE_OR_MODULE",
            help="Your durable objects and transforms: a Python file, or a module that can be imported.",
        ),
    ] = None,
    executors: Annotated[
        int | None,
        typer.Option(
            envvar="PENSTOCK_EXECUTORS",
            min=1,
            max=EXECUTORS_MAX,
            show_default="one per core",
            help="Processes that accept requests and host objects.",
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar="PENSTOCK_DRAIN_SECONDS",
            min=0,
            help="At SIGTERM, how long running requests may take to finish.",
        ),
    ] = 10.0,
    secret_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PENSTOCK_SECRET_KEY_FILE",
            show_default="DATA_DIR/secret.key",
            help="The key that opens the credentials of buckets elsewhere. Made by the first start.",
        ),
    ] = None,
    blocked_seconds_max: Annotated[
        float,
        typer.Option(
            envvar="PENSTOCK_BLOCKED_SECONDS_MAX",
            min=0,
            help="An executor that an object's code holds up for so long is ended and started again; 0 = never.",
        ),
    ] = 60.0,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            envvar="PENSTOCK_LOG_FORMAT",
            show_default="console when standard error is a terminal, else json",
            help="Log lines for machines or for people.",
        ),
    ] = None,
    body_bytes_max: Annotated[
        int,
        _limit("body_bytes_max", "Largest body of a request with records or to an object; a larger one gets 413."),
    ] = _DEFAULT.body_bytes_max,
    control_body_bytes_max: Annotated[
        int, _limit("control_body_bytes_max", "Largest body of one control request.")
    ] = _DEFAULT.control_body_bytes_max,
    inflight_bytes_max: Annotated[
        int,
        _limit(
            "inflight_bytes_max",
            "Bodies being received or made durable, per executor; above it requests get 429. Bounds memory.",
        ),
    ] = _DEFAULT.inflight_bytes_max,
    undelivered_bytes_max: Annotated[
        int,
        _limit(
            "undelivered_bytes_max",
            "Accepted bytes not in a file yet, per shard; above it requests get 429. Bounds disk.",
        ),
    ] = _DEFAULT.undelivered_bytes_max,
    pipeline_undelivered_bytes_max: Annotated[
        int,
        _limit("pipeline_undelivered_bytes_max", "Likewise of all shards that a pipeline has on one executor."),
    ] = _DEFAULT.pipeline_undelivered_bytes_max,
    executor_undelivered_bytes_max: Annotated[
        int,
        _limit(
            "executor_undelivered_bytes_max",
            "Likewise of all shards of an executor; above it only pipelines over their fair share get 429.",
        ),
    ] = _DEFAULT.executor_undelivered_bytes_max,
    disk_reserve_bytes: Annotated[
        int,
        _limit(
            "disk_reserve_bytes",
            "Ingestion and requests to objects stop (507) when the file system has less than this free.",
        ),
    ] = _DEFAULT.disk_reserve_bytes,
    wal_bytes_max: Annotated[
        int,
        _limit(
            "wal_bytes_max",
            "An object's log is copied back into its database when it is larger than this.",
        ),
    ] = _DEFAULT.wal_bytes_max,
    transform_memory_bytes_max: Annotated[
        int,
        _limit(
            "transform_memory_bytes_max",
            "Address space of the process that runs an executor's transforms; 0 = no limit.",
        ),
    ] = _DEFAULT.transform_memory_bytes_max,
    queue_backlog_bytes_max: Annotated[
        int,
        _limit("queue_backlog_bytes_max", "Messages that a queue keeps; above it senders get 429. Bounds disk."),
    ] = _DEFAULT.queue_backlog_bytes_max,
    queue_concurrency_max: Annotated[
        int,
        _count("queue_concurrency_max", "Batches of one consumer handled at once.", most=CONCURRENCY_LIMIT),
    ] = _DEFAULT.queue_concurrency_max,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    The first start makes an account and an admin token and writes them into DATA_DIR/credentials.toml, where
    the other commands find them.
    """
    from penstock.server.settings import ServeSettings
    from penstock.server.supervisor import serve as run

    # First of all: nothing of the server is open yet that the user's code could see, or that it could disturb.
    application = {} if app is None else {"application": _load(app)}
    terminal = sys.stderr is not None and sys.stderr.isatty()
    log_format = log_format or (LogFormat.console if terminal else LogFormat.json)
    if terminal and log_format is LogFormat.console:
        _speak_plainly(
            data_dir, [cls.__name__ for cls in application["application"].classes] if application else []
        )
    try:
        limits = Limits(
            body_bytes_max=body_bytes_max,
            control_body_bytes_max=control_body_bytes_max,
            inflight_bytes_max=inflight_bytes_max,
            undelivered_bytes_max=undelivered_bytes_max,
            pipeline_undelivered_bytes_max=pipeline_undelivered_bytes_max,
            executor_undelivered_bytes_max=executor_undelivered_bytes_max,
            disk_reserve_bytes=disk_reserve_bytes,
            wal_bytes_max=wal_bytes_max,
            transform_memory_bytes_max=transform_memory_bytes_max,
            queue_backlog_bytes_max=queue_backlog_bytes_max,
            queue_concurrency_max=queue_concurrency_max,
        )
    except Invalid as error:
        raise WrongFlag(error.message) from error
    settings = ServeSettings(
        **application,
        data_dir=data_dir,
        host=host,
        port=port,
        executors=executors or _cores(),
        drain_seconds=drain_seconds,
        secret_key_file=secret_key_file,
        blocked_seconds_max=blocked_seconds_max,
        log_format=log_format.value,
        limits=limits,
    )
    raise typer.Exit(run(settings))


def _speak_plainly(data_dir: Path, class_names: list[str]) -> None:
    """At a terminal: where to go on once the server is ready, and why it did not start, not as log lines."""
    from penstock.server.logs import Fields, put_plainly

    # The default is found in the folder that the server was started in, any other place from anywhere.
    here = data_dir == DATA_DIR_DEFAULT
    where, flag = (", in this folder", "") if here else ("", data_dir_flag(data_dir))
    command = own_command()

    def next_steps(url: object) -> str:
        if not class_names:
            return f"{command} pipelines create my-pipeline --bucket my-bucket{flag}"
        name = class_names[0]
        return (
            f'\n  curl -H "Authorization: Bearer $({command} token{flag})" {url}/objects/{name}/my-name/\n'
            f"  {command} objects list {name}{flag}"
        )

    def on_ready(line: str, fields: Fields) -> str:
        return (
            f"{line}\n\nCredentials for the API are in {data_dir / CREDENTIALS_FILE}.\n"
            f"Next, in another terminal{where}: {next_steps(fields.get('url'))}\n"
        )

    def on_cannot_start(line: str, fields: Fields) -> str:
        return output.error_line(str(fields.get("error")))

    put_plainly("ready", on_ready)
    put_plainly("cannot_start", on_cannot_start)


def _load(app: str) -> Any:
    from penstock.server.application import load_application

    try:
        return load_application(app)
    except Invalid as error:
        raise CliError(error.message) from None
