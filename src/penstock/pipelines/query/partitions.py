"""Hive partitions in the paths of files, and which of a query's conditions are about them alone. Pure.

`event_date=2026-11-23/hr=14` in a path are two columns of the records in the file. Conditions on them choose files
before any is opened. DuckDB would do that too, but only after it has looked into all files for their columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from penstock.pipelines.query.syntax_tree import Node, expression_names, tables, walk

#: Column and value, in the order of the path.
Partition = tuple[tuple[str, str], ...]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
#: What a BIGINT takes.
_NUMBER = re.compile(r"-?\d{1,18}")

#: Expressions that mean the same wherever they stand: no subqueries, no functions with a state.
_CLASSES = {"COMPARISON", "CONJUNCTION", "CONSTANT", "COLUMN_REF", "BETWEEN", "OPERATOR", "CAST", "TYPE"}


def partition_of(path: str) -> Partition:
    """As DuckDB reads it: each folder of the form `column=value`."""
    folders = path.split("/")[:-1]
    return tuple((name, value) for name, is_one, value in (f.partition("=") for f in folders) if is_one and name)


def column_types(partitions: Iterable[Partition]) -> dict[str, str]:
    """Of each partition column DATE, BIGINT or VARCHAR: what all its values are."""
    values: dict[str, set[str]] = {}
    for partition in partitions:
        for name, value in partition:
            values.setdefault(name, set()).add(value)
    return {name: _type(found) for name, found in values.items()}


def _type(values: set[str]) -> str:
    if all(_DATE.fullmatch(value) for value in values):
        return "DATE"
    return "BIGINT" if all(_NUMBER.fullmatch(value) for value in values) else "VARCHAR"


def conditions(statement: Node, table: str, columns: set[str]) -> tuple[str, list[Node]]:
    """From a serialised SELECT: the name under which it reads `table`, and those of its conditions, all of which
    must hold, that are about the partition columns alone. None where the table is read more than once, or joined:
    what a condition means for its rows is not so plain there."""
    found = [node for node in tables(statement) if node["table_name"].lower() == table.lower()]
    if len(found) != 1 or table.lower() in expression_names(statement):
        return "", []
    name = found[0].get("alias") or table
    for node in walk(statement):
        if node.get("type") == "SELECT_NODE" and node.get("from_table") is found[0]:
            return name, [part for part in _parts(node.get("where_clause")) if _is_about(part, name, columns)]
    return "", []


def columns_of(condition: Node) -> set[str]:
    """The columns it reads, in lower case: SQL does not tell them apart."""
    return {node["column_names"][-1].lower() for node in walk(condition) if node.get("class") == "COLUMN_REF"}


def _parts(where: Node | None) -> Iterator[Node]:
    if where is None:
        return
    if where.get("type") == "CONJUNCTION_AND":
        for child in where["children"]:
            yield from _parts(child)
    else:
        yield where


def _is_about(condition: Node, name: str, columns: set[str]) -> bool:
    nodes = [node for node in walk(condition) if "class" in node]
    if any(node["class"] not in _CLASSES for node in nodes):
        return False
    references = [node["column_names"] for node in nodes if node["class"] == "COLUMN_REF"]
    return bool(references) and all(
        reference[-1].lower() in columns
        and (len(reference) == 1 or (len(reference) == 2 and reference[0].lower() == name.lower()))
        for reference in references
    )
