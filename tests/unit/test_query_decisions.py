"""What is decided about a query before it runs."""

from __future__ import annotations

import json

import duckdb
import pytest

from penstock.pipelines.query.partitions import column_types, conditions, partition_of
from penstock.pipelines.query.syntax_tree import Node, table_names
from penstock.pipelines.query.types import column_type


def tree(sql: str) -> Node:
    with duckdb.connect() as connection:
        found = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert found is not None
    parsed: Node = json.loads(found[0])
    return parsed


def test_partitions_are_the_folders_that_name_a_value() -> None:
    assert partition_of("/data/b/event_date=2026-11-23/plain/hr=05/01=2.json") == (
        ("event_date", "2026-11-23"),
        ("hr", "05"),
    )


def test_a_partition_column_has_the_type_that_all_its_values_have() -> None:
    partitions = [(("d", "2026-11-23"), ("h", "05"), ("x", "1")), (("d", "2026-11-24"), ("h", "-1"), ("x", "a"))]
    assert column_types(partitions) == {"d": "DATE", "h": "BIGINT", "x": "VARCHAR"}
    assert column_types([(("h", "9" * 19),)]) == {"h": "VARCHAR"}


@pytest.mark.parametrize(
    ("sql", "certain", "perhaps"),
    [
        ('SELECT * FROM a JOIN "b-c" USING (n) WHERE n IN (SELECT n FROM main.d)', ["a", "b-c", "d"], []),
        ("WITH x AS (SELECT * FROM a) SELECT * FROM x, A", ["a"], ["x"]),
        ("DESCRIBE a", ["a"], []),
        ("SELECT * FROM information_schema.tables", [], []),
        ("SELECT 1", [], []),
    ],
)
def test_the_tables_of_a_query(sql: str, certain: list[str], perhaps: list[str]) -> None:
    found = table_names(tree(sql))
    assert ([name.lower() for name in found[0]], found[1]) == (certain, perhaps)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("hr = 5 AND d > '2026-01-01' AND n = 1", 2),
        ("(hr = 5 OR d IS NULL) AND t.hr NOT IN (1, 2)", 2),
        ("hr = 5 OR n = 1", 0),
        ("hr = random()", 0),
        ("hr = (SELECT 1)", 0),
        ("other.hr = 5", 0),
        ("HR BETWEEN 1 AND 2", 1),
    ],
)
def test_conditions_on_partitions_alone_choose_files(where: str, count: int) -> None:
    assert len(conditions(tree(f"SELECT * FROM clicks t WHERE {where}"), "clicks", {"hr", "d"})[1]) == count


@pytest.mark.parametrize(
    ("kinds", "digits", "type_"),
    [
        (["UBIGINT", "BIGINT", "NULL"], 18, "BIGINT"),
        (["UBIGINT"], 19, "HUGEINT"),
        (["BIGINT", "DOUBLE"], 3, "DOUBLE"),
        (["VARCHAR", "NULL"], 0, "VARCHAR"),
        (["BOOLEAN"], 0, "BOOLEAN"),
        (["VARCHAR", "UBIGINT"], 1, "JSON"),
        (["OBJECT"], 0, "JSON"),
        (["NULL"], 0, "JSON"),
    ],
)
def test_a_column_has_the_narrowest_type_that_takes_all_values(kinds: list[str], digits: int, type_: str) -> None:
    assert column_type(kinds, digits) == type_
