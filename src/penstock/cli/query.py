"""`penstock query`: SQL over the records of pipelines."""

from __future__ import annotations

import csv
import io
import json as json_
import sys
from typing import Annotated, Any

import typer

from penstock.base.limits import RECORDS_QUERY_ROWS_MAX
from penstock.cli import output
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, DataDir, Token, Url, connect

Json = dict[str, Any]


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT; its tables are pipelines.")],
    live: Annotated[bool, typer.Option("--live", help="Add the records that are in no file yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=RECORDS_QUERY_ROWS_MAX, help="Show at most so many rows.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print the API's result as JSON, and nothing else.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV, with a heading.")] = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Ask the records of pipelines in SQL, with DuckDB on the server.

    Names with hyphens are quoted, or written with underscores: select * from my_clickstream
    """
    if json and as_csv:
        raise typer.BadParameter("--json and --csv are two forms of the same; choose one.")
    found = connect(url, account_id, token, data_dir).query_records(sql, live=live, limit=limit)
    names = [str(column["name"]) for column in found["columns"]]
    if json:
        output.print_json(found)
    elif as_csv:
        sys.stdout.write(_csv(names, found["rows"]))  # as it is: echo would leave out what looks like colours
    else:
        output.print_table(names, [[_cell(value) for value in row] for row in found["rows"]])
    if found.get("truncated"):
        output.progress("There are more rows; see more with --limit, or ask for less.")
    _notes(found)


def _notes(found: Json) -> None:
    missing = (found.get("files") or {}).get("missing", 0)
    if missing:
        output.progress(f"{missing:,} files are not in their bucket any more; their records are not in this.")
    if forgotten := found.get("forgotten_records", 0):
        output.progress(
            f"{forgotten:,} records were delivered so long ago that the server does not know their files; they are "
            "not in this."
        )


def _csv(names: list[str], rows: list[list[Any]]) -> str:
    """As RFC 4180, but for the ends of lines. NULL is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if value is None else _text(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    # Records may come from anybody: nothing in them may command the terminal.
    text = _text(value)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_.dumps(value, ensure_ascii=False)
