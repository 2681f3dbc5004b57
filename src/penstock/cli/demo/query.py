"""A query over the files, by DuckDB, as a user would write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.cli.demo.files import PATTERN


@dataclass(frozen=True, slots=True)
class Answer:
    columns: list[str]
    rows: list[list[str]]


def events_query(folder: Path) -> str:
    """Which event happened how often. Any tool that reads Hive-style folders could ask this."""
    glob = str(folder / PATTERN).replace("'", "''")
    return (
        'select event, count(*) as records, count(distinct "user") as users\n'
        f"from read_json_auto('{glob}', hive_partitioning = true)\n"
        "group by event order by records desc, event"
    )


def run_query(sql: str) -> Answer:
    """Run `sql` in a database of its own, in memory."""
    import duckdb

    # Everything needed is built in; nothing is ever fetched.
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        cursor = connection.execute(sql)
        columns = [str(column[0]) for column in cursor.description or ()]
        return Answer(columns, [[str(value) for value in row] for row in cursor.fetchall()])
