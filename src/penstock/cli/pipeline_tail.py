"""`penstock pipelines tail`: records while they come."""

from __future__ import annotations

import json as json_
import sys
from typing import Annotated

import typer

from penstock.cli import output
from penstock.cli.errors import CliError
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, DataDir, Token, Url, connect
from penstock.cli.pipeline_names import Name

_RECORD, _END = b'{"record":', b"}\n"


def tail(
    name: Name,
    sample: Annotated[float, typer.Option(help="Share of the records to show, above 0, up to 1.")] = 1.0,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the API's lines: records, and what was dropped, as objects.")
    ] = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Show records while they come, one a line, until Ctrl-C."""
    if not 0 < sample <= 1:
        raise typer.BadParameter("--sample must be a number above 0, up to 1: the share of the records.")
    shown = 0
    try:
        for line in connect(url, account_id, token, data_dir).tail_pipeline(name, sample):
            is_record = line.startswith(_RECORD)
            if json:
                _write(line)
            elif is_record:
                # As it came: not decoded, which would round numbers and lose the order of what is there twice.
                _write(line[len(_RECORD) : -len(_END)] + b"\n")
            else:
                _note(line)
            shown += is_record
            if limit is not None and shown >= limit:
                return
    except KeyboardInterrupt:
        return
    output.progress("The server has ended the tail: it stops, the pipeline was deleted, or the token was revoked.")


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _note(line: bytes) -> None:
    try:
        dropped = json_.loads(line)["dropped"]
    except (ValueError, KeyError, TypeError):
        raise CliError(f"the server sent a line that is no record: {line[:200]!r}") from None
    output.progress(f"({dropped} records were left out: they came faster than they were read)")
