"""DuckDB's syntax tree of a query, as JSON: which tables it names. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]


def walk(value: Any) -> Iterator[Node]:
    """All nodes, the outer ones first."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)


def tables(statement: Node) -> list[Node]:
    """The nodes that name a table of the main schema. Some may mean a common table expression."""
    return [
        node
        for node in walk(statement)
        if node.get("type") == "BASE_TABLE" and node.get("schema_name", "") in ("", "main")
    ]


def table_names(statement: Node) -> tuple[list[str], list[str]]:
    """The names of tables, those that differ in case alone once: first those that mean tables, then those that may
    mean a common table expression of the query instead, or as well."""
    names = {node["table_name"].lower(): str(node["table_name"]) for node in reversed(tables(statement))}
    expressions = expression_names(statement)
    certain = sorted(name for key, name in names.items() if key not in expressions)
    return certain, sorted(name for key, name in names.items() if key in expressions)


def expression_names(statement: Node) -> set[str]:
    """The names of its common table expressions, in lower case."""
    maps = (node["cte_map"].get("map") or [] for node in walk(statement) if isinstance(node.get("cte_map"), dict))
    return {str(entry.get("key", "")).lower() for entries in maps for entry in entries}
