"""What the demo does and shows, step by step. The story is its result, so all of it goes to stdout."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from penstock.cli.client import Client
from penstock.cli.demo.files import PATTERN, Arrivals, count_of_records, read_records, tree
from penstock.cli.demo.process import Server
from penstock.cli.demo.query import events_query, run_query
from penstock.cli.demo.sample import Record, clickstream
from penstock.cli.demo.wait import wait
from penstock.cli.errors import ApiError, CliError
from penstock.cli.output import print_table, stdout
from penstock.cli.own_command import data_dir_flag, own_command
from penstock.cli.pipeline_settings import Flags, describe
from penstock.cli.pipelines import curl_line
from penstock.cli.target import read_target

Json = dict[str, Any]

PIPELINE = "clickstream"
BATCH_SECONDS = 2
RECORDS = 600
RECORDS_PER_REQUEST = 100
#: A first start makes databases and processes; on a slow machine that takes a few seconds.
READY_SECONDS_MAX = 60.0
#: From the last record until the files hold it, on top of the age at which a file is due.
FILES_SECONDS_MAX = 30.0


def step(line: str) -> None:
    stdout().print(f"\n▶ {line}", style="bold")


def tell(server: Server, data_dir: Path, *, once: bool) -> tuple[Arrivals, list[Record]]:
    """From an empty server to a query over files. Returns what arrived and what was sent."""
    client = _connect(server, data_dir)
    pipeline = _pipeline(client)
    path = pipeline.get("destination", {}).get("path", {})
    folder = data_dir / "buckets" / str(path.get("bucket")) / str(path.get("prefix") or "").strip("/")

    now = datetime.now(UTC)
    # Marks the records of this run, should the pipeline hold others already.
    run = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}"
    records = clickstream(RECORDS, run=run, end=now)
    arrivals = Arrivals(folder, run)
    arrivals.look()
    _send(client, pipeline, records)
    _await_files(server, arrivals, pipeline, records)
    _show_files(arrivals)
    _show_query(folder.absolute())
    if not once:
        _show_next_steps(server, pipeline, folder.absolute(), data_dir.absolute())
    return arrivals, records


def check(arrivals: Arrivals, records: list[Record]) -> None:
    """CliError unless every record is in a file exactly once."""
    arrivals.look()
    if problem := arrivals.problem(records):
        raise CliError(f"in {arrivals.folder}: {problem}")


def show_new_files(arrivals: Arrivals) -> bool:
    """Print a line for each file that appeared since the last look; whether there was one."""
    new = arrivals.look()
    for path in new:
        typer.echo(f"  {path}  {count_of_records(arrivals.files[path])}")
    return bool(new)


def _connect(server: Server, data_dir: Path) -> Client:
    server.wait_ready(READY_SECONDS_MAX)
    if server.port != server.wanted_port:
        typer.echo(f"  Port {server.wanted_port} is taken, so it listens on another")
    typer.echo(f"  {server.url} is ready; its log is {server.log}")
    return Client(read_target(data_dir=data_dir, environ={}, url=server.url))


def _pipeline(client: Client) -> Json:
    """The demo's pipeline: the one that is there, from an earlier run, or a new one."""
    try:
        pipeline = client.get_pipeline(PIPELINE)
        step(f'Using the pipeline "{PIPELINE}" that is there')
    except ApiError as error:
        if error.status != 404:
            raise
        step(f'Creating the pipeline "{PIPELINE}": a file is due after {BATCH_SECONDS} seconds')
        pipeline = client.create_pipeline(
            describe(PIPELINE, Flags(bucket=PIPELINE, batch_max_seconds=BATCH_SECONDS))
        )
    compression = pipeline.get("destination", {}).get("compression", {}).get("type")
    if compression != "gzip":
        raise CliError(
            f'the pipeline "{PIPELINE}" was changed and writes files with compression {compression}, but the '
            "demo reads gzip: pass another --data-dir"
        )
    typer.echo(f"  id {pipeline.get('id')}")
    return pipeline


def _send(client: Client, pipeline: Json, records: list[Record]) -> None:
    requests = list(_slices(records, RECORDS_PER_REQUEST))
    step(f"Sending {len(records)} clickstream records in {len(requests)} requests")
    committed = 0
    for batch in requests:
        committed += client.ingest(str(pipeline.get("id")), json.dumps(batch).encode())
    typer.echo(f"  {committed} committed: on disk, whatever happens next")
    if committed != len(records):
        raise CliError(f"the server committed {committed} records of {len(records)}")


def _await_files(server: Server, arrivals: Arrivals, pipeline: Json, records: list[Record]) -> None:
    due_seconds = float(pipeline.get("destination", {}).get("batch", {}).get("max_duration_s", BATCH_SECONDS))
    step("Waiting for the files")

    def settled() -> bool:
        arrivals.look()
        return arrivals.ids.total() >= len(records) or not server.is_running()

    wait(settled, due_seconds + FILES_SECONDS_MAX)
    if not server.is_running():
        raise CliError(f"the server ended by itself{server.log_tail()}")
    if problem := arrivals.problem(records):
        raise CliError(
            f"after {due_seconds + FILES_SECONDS_MAX:g} s in {arrivals.folder}: {problem}{server.log_tail()}"
        )


def _show_files(arrivals: Arrivals) -> None:
    others = f", and {arrivals.others} from before" if arrivals.others else ""
    typer.echo(f"  {arrivals.ids.total()} records arrived{others}\n")
    for line in tree(arrivals.folder, sorted(arrivals.files), arrivals.files):
        typer.echo(f"  {line}")
    last = max(arrivals.files)
    step(f"The first record of {last.name}")
    for line in json.dumps(read_records(last)[0], indent=2, ensure_ascii=False).splitlines():
        typer.echo(f"  {line}")


def _show_query(folder: Path) -> None:
    step("A query over the files, with DuckDB")
    sql = events_query(folder)
    for line in sql.splitlines():
        typer.echo(f"  {line}")
    typer.echo()
    answer = run_query(sql)
    print_table(answer.columns, answer.rows, right=("records", "users"), indent=2)


def _show_next_steps(server: Server, pipeline: Json, folder: Path, data_dir: Path) -> None:
    """Lines that work in any folder."""
    step("Try it yourself, in another terminal")
    command, flag = own_command(), data_dir_flag(data_dir)
    # The server may stand behind another address in its own eyes; this one is certain to work here.
    here = pipeline | {"endpoint": f"{server.url}/ingest/{pipeline.get('id')}"}
    typer.echo(f"  {curl_line(here, token=f'$({command} token{flag})')}")
    typer.echo(f"  zcat {_quoted(folder)}/{PATTERN} | tail -n 1")
    typer.echo(f"  {command} pipelines list{flag}")
    typer.echo(f"  curl {server.url}/metrics")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _slices(records: list[Record], size: int) -> Iterator[list[Record]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]
