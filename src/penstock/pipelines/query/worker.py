"""The process that runs one query and ends: `python -m penstock.pipelines.query.worker`.

It is given the paths of the files that the query may read, and nothing else: before the query runs, DuckDB's access
to files, extensions and the network is shut but for these paths, and its configuration is locked. The environment
is empty. Whoever started it kills it when it takes too long.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any, BinaryIO, TypeVar

import duckdb
import msgspec

from penstock.base.limits import QUERY_ADDRESS_BYTES_MAX, RECORDS_QUERY_MS_MAX, RECORDS_QUERY_THREADS
from penstock.pipelines.query.messages import (
    HEADER_BYTES,
    Answer,
    Asked,
    Failed,
    Found,
    Given,
    Named,
    Needed,
    Question,
    Ready,
    read_question,
    to_frame,
)
from penstock.pipelines.query.partitions import Partition, column_types, columns_of, conditions, partition_of
from penstock.pipelines.query.syntax_tree import Node, table_names
from penstock.pipelines.query.types import column_type

T = TypeVar("T", Asked, Given, Ready)

#: More than all threads can use before the deadline.
_CPU_SECONDS_MAX = (RECORDS_QUERY_THREADS + 1) * RECORDS_QUERY_MS_MAX // 1000
#: Rows fetched at once.
_ROWS = 500
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
#: Of a field, in an expression: RFC 6901.
_POINTER = "('/' || replace(replace(name, '~', '~0'), '/', '~1'))"


class _Refused(Exception):
    """Said to whoever wrote the query."""


def main() -> None:
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Nothing that a library prints may get between the answers.
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (QUERY_ADDRESS_BYTES_MAX, QUERY_ADDRESS_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should the executor die, nobody is left to kill this process.
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS_MAX, _CPU_SECONDS_MAX))
    try:
        _run(questions, answers)
    except _Refused as refused:
        _say(answers, Failed(str(refused)))
    except duckdb.Error as error:
        _say(answers, Failed(_message(error)))
    except MemoryError:
        _say(answers, Failed("The query needs more memory than a query may take."))


def _run(questions: BinaryIO, answers: BinaryIO) -> None:
    sql = _next(questions, Asked).sql
    statement = _parsed(sql)
    _say(answers, Named(*table_names(statement)))
    given = _next(questions, Given)
    needed = {table: _pruned(statement, table, paths) for table, paths in given.tables.items()}
    _say(answers, Needed(needed))
    missing = set(_next(questions, Ready).missing)
    there = {table: [path for path in paths if path not in missing] for table, paths in needed.items()}
    types = {table: column_types(map(partition_of, paths)) for table, paths in given.tables.items()}
    _say(answers, _result(sql, given, there, types))


# -- what it reads ------------------------------------------------------------------------------------------


def _parsed(sql: str) -> Node:
    """The query's syntax tree. Asked of a database that can do nothing."""
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        _shut(connection)
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise _Refused(f"A query is one SELECT; this has {len(statements)} statements.")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise _Refused("A query is one SELECT: it can read records, and nothing else.")
        tree = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert tree is not None
    parsed: Node = json.loads(tree[0])
    if parsed.get("error"):
        raise _Refused(f"The query cannot be read: {parsed.get('error_message')}")
    return parsed


def _pruned(statement: Node, table: str, paths: list[str]) -> list[str]:
    """The files in which the query's conditions on the partitions can hold, and one at least: a table needs columns
    also when none of its rows is wanted."""
    by_path = {path: partition_of(path) for path in paths}
    types = column_types(by_path.values())
    name, parts = conditions(statement, table, {column.lower() for column in types})
    kept = paths
    for part in parts:
        kept = _those_with(part, name, kept, by_path, types)
    return kept or paths[-1:]


def _those_with(
    part: Node, name: str, paths: list[str], by_path: dict[str, Partition], types: dict[str, str]
) -> list[str]:
    """The files in which a condition may hold. One without the columns that it reads may hold anything."""
    wanted = [column for column in types if column.lower() in columns_of(part)]
    asked = [path for path in paths if {column for column, _ in by_path[path]}.issuperset(wanted)]
    rows = {tuple(dict(by_path[path])[column] for column in wanted) for path in asked}
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        _shut(connection)
        columns = ", ".join(f"{_quoted(column)} {types[column]}" for column in wanted)
        connection.execute(f"CREATE TABLE partitions (number INTEGER, {columns})")
        numbered = list(enumerate(rows))
        if numbered:
            marks = ", ".join("?" * (len(wanted) + 1))
            connection.executemany(f"INSERT INTO partitions VALUES ({marks})", [(n, *row) for n, row in numbered])
        try:
            connection.execute("SELECT json_serialize_sql('SELECT number FROM partitions')")
            tree = json.loads(connection.fetchall()[0][0])
            node = tree["statements"][0]["node"]
            node["where_clause"] = part
            node["from_table"]["alias"] = name
            connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)])
            chosen = {number for (number,) in connection.execute(connection.fetchall()[0][0]).fetchall()}
        except duckdb.Error:
            return paths  # the query itself will say what is wrong with it
    held = {row for number, row in numbered if number in chosen}
    passed = {path for path in asked if tuple(dict(by_path[path])[column] for column in wanted) in held}
    return [path for path in paths if path in passed or path not in asked]


# -- the query ----------------------------------------------------------------------------------------------


def _result(
    sql: str, given: Given, tables: dict[str, list[str]], types: dict[str, dict[str, str]]
) -> Found | Failed:
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        connection.execute(f"SET memory_limit = '{given.memory_bytes_max}B'")
        connection.execute(f"SET threads = {RECORDS_QUERY_THREADS}")
        connection.execute(f"SET temp_directory = {_literal(given.spill_folder)}")
        connection.execute(f"SET max_temp_directory_size = '{given.spill_bytes_max}B'")
        paths = [path for paths in tables.values() for path in paths]
        connection.execute(f"SET allowed_paths = {_list(paths)}")
        _shut(connection)
        for table, paths in tables.items():
            if not paths:
                raise _Refused(f"None of the files of {table!r} that the query needs is in the bucket any more.")
            view = _view(connection, _source(paths, types[table]), types[table])
            connection.execute(f"CREATE VIEW {_quoted(table)} AS {view}")
        cursor = connection.execute(sql)
        description = cursor.description or []
        rows, truncated = _rows(cursor, given)
        return Found([str(c[0]) for c in description], [str(c[1]) for c in description], rows, truncated)


def _source(paths: list[str], types: dict[str, str]) -> str:
    """The records as JSON, with the partition columns. Files with other partition columns are read on their own:
    DuckDB takes none that differ."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        groups.setdefault(tuple(sorted({column for column, _ in partition_of(path)})), []).append(path)
    return " UNION ALL BY NAME ".join(_read(paths, columns, types) for columns, paths in groups.items())


def _read(paths: list[str], columns: tuple[str, ...], types: dict[str, str]) -> str:
    hive = "hive_partitioning = false"
    if columns:
        fields = ", ".join(f"{_literal(column)}: {types[column]}" for column in columns)
        hive = f"hive_partitioning = true, hive_types = {{{fields}}}"
    return f"SELECT * FROM read_json_objects({_list(paths)}, format = 'newline_delimited', {hive})"


def _view(connection: duckdb.DuckDBPyConnection, source: str, types: dict[str, str]) -> str:
    """A SELECT with a column for each field of the records, and the partition columns.

    DuckDB's own reader of records is not used: one record that does not fit (a name twice, a number too large,
    arrays in arrays in arrays) would make it refuse all of them, and anybody may send that one."""
    found = connection.execute(
        "SELECT name, list(DISTINCT type), max(digits) FROM ("
        f" SELECT name, json_type(json, {_POINTER}) AS type,"
        f" CASE WHEN type = 'UBIGINT' THEN length(json ->> {_POINTER}) END AS digits"
        f" FROM (SELECT json, unnest(json_keys(json)) AS name FROM ({source}))) GROUP BY name ORDER BY name"
    ).fetchall()
    taken = {column.lower() for column in types}
    columns = []
    for name, kinds, digits in found:
        if "\0" in name or not name or name.lower() in taken:
            continue  # no column can have such a name, or there is one already
        taken.add(name.lower())
        columns.append(f"{_value(name, column_type(kinds, digits or 0))} AS {_quoted(name)}")
    columns += [_quoted(column) for column in types]
    return f"SELECT {', '.join(columns) or 'json AS record'} FROM ({source})"


def _value(name: str, type_: str) -> str:
    pointer = _literal("/" + name.replace("~", "~0").replace("/", "~1"))
    if type_ == "JSON":
        return f"nullif(json -> {pointer}, 'null'::JSON)"
    text = f"(json ->> {pointer})"
    return text if type_ == "VARCHAR" else f"TRY_CAST({text} AS {type_})"


def _rows(cursor: duckdb.DuckDBPyConnection, given: Given) -> tuple[bytes, bool]:
    rows: list[bytes] = []
    size = 0
    while found := cursor.fetchmany(_ROWS):
        for row in found:
            encoded = msgspec.json.encode([_plain(value) for value in row])
            size += len(encoded) + 1
            if len(rows) == given.rows_max or size > given.result_bytes_max:
                return b",".join(rows), True
            rows.append(encoded)
    return b",".join(rows), False


def _plain(value: Any) -> Any:
    """What JSON can say. A MAP's keys become texts, as all keys are in JSON."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return msgspec.Raw(str(value).encode())
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _shut(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on nothing is reached but what was allowed, and no setting changes."""
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET allow_community_extensions = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _message(error: duckdb.Error) -> str:
    return str(error).strip()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(texts: list[str]) -> str:
    return f"[{', '.join(map(_literal, texts))}]"


# -- frames -------------------------------------------------------------------------------------------------


def _next(questions: BinaryIO, kind: type[T]) -> T:
    header = questions.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        sys.exit(0)  # nobody wants to know any more
    question: Question = read_question(questions.read(int.from_bytes(header, "big")))
    assert isinstance(question, kind)
    return question


def _say(answers: BinaryIO, answer: Answer) -> None:
    answers.write(to_frame(answer))
    answers.flush()


if __name__ == "__main__":
    main()
