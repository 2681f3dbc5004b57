from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = "0" * 31 + "a"
NAMESPACES = f"/client/v4/accounts/{ACCOUNT}/workers/durable_objects/namespaces"
KNOWN = [
    {"id": "Old", "class": "Counter", "script": "app.py"},
    {"id": "Registry", "class": "Registry", "script": "penstock"},
]
ID = "0e00c5ff" * 8


@pytest.fixture(autouse=True)
def credentials(server: Any, write_credentials: Callable[..., Path]) -> Path:
    return write_credentials(server.url)


def ok(result: Any, **more: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result, **more}


def counter(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "name": "a/b",
        "active": False,
        "size_bytes": 20_480,
        "last_active_ms": 1_000_000_000_000,
        "alarm": None,
        "failures": 0,
        "last_failure": None,
        "last_failure_ms": None,
    } | changes


def test_list_shows_the_classes(run: Any, server: Any) -> None:
    server.will_answer(ok(KNOWN), ok([]), ok(KNOWN), ok([]))
    heading, *rows = run("objects", "list").out.splitlines()
    assert heading.split() == ["CLASS", "NAMESPACE", "FROM"]
    assert [row.split() for row in rows] == [["Counter", "Old", "app.py"], ["Registry", "Registry", "penstock"]]
    assert json.loads(run("objects", "list", "--json").out) == KNOWN


def test_list_shows_the_objects_of_a_class_from_all_pages_and_says_when_there_are_more(
    run: Any, server: Any
) -> None:
    def pages() -> list[tuple[int, Any]]:
        first = ok([counter(name="a")], result_info={"cursor": ID})
        return [ok(KNOWN), ok([]), first, ok([counter(name="b"), counter(name="c")], result_info={"cursor": ""})]

    server.will_answer(*pages(), *pages())
    outcome = run("objects", "list", "Counter")
    assert [row.split()[0] for row in outcome.out.splitlines()] == ["NAME", "a", "b", "c"]
    assert outcome.err == ""
    assert server.requests[2].path == f"{NAMESPACES}/Old/objects?limit=100&cursor="
    assert server.requests[3].path == f"{NAMESPACES}/Old/objects?limit=100&cursor={ID}"
    outcome = run("objects", "list", "Counter", "--limit", "2")
    assert [row.split()[0] for row in outcome.out.splitlines()] == ["NAME", "a", "b"]
    assert "more than 2" in outcome.err


def test_info_shows_an_object(run: Any, server: Any) -> None:
    alarm = {"at_ms": 1_000_000_060_000, "retries": 2, "failed": False}
    failing = counter(alarm=alarm, failures=3, last_failure="ValueError: no", last_failure_ms=1_000_000_000_000)
    server.will_answer(ok(KNOWN), ok([]), ok([failing]))
    lines = [line.rstrip() for line in run("objects", "info", "Counter", "a/b").out.splitlines()]
    assert server.requests[2].path == f"{NAMESPACES}/Old/objects?name=a%2Fb"
    assert [line.strip().split("  ", 1)[0] for line in lines] == [
        "Name",
        "Id",
        "Size",
        "Active",
        "Last active",
        "Alarm",
        "Failures",
        "Last failure",
    ]
    assert lines[4].endswith("2001-09-09 01:46:40Z")
    assert lines[5].endswith("2001-09-09 01:47:40Z, retry 2")
    assert lines[7].endswith("2001-09-09 01:46:40Z  ValueError: no")


@pytest.mark.parametrize(
    ("alarm", "words"),
    [
        ({"at_ms": 1, "retries": 6, "failed": True}, "failed for good after 6 retries"),
        ({"at_ms": 1 << 62, "retries": 0, "failed": False}, f"{1 << 62} ms"),
    ],
)
def test_an_alarm_that_will_not_come_is_shown_too(run: Any, server: Any, alarm: Any, words: str) -> None:
    server.will_answer(ok(KNOWN), ok([]), ok(counter(alarm=alarm)))
    assert words in run("objects", "info", "Counter", ID, "--id").out
    assert server.requests[2].path == f"{NAMESPACES}/Old/objects/{ID}"


def test_nothing_in_a_name_or_a_value_commands_the_terminal(run: Any, server: Any) -> None:
    rows = {"columns": ["x"], "rows": [["\x1b[31m\n"], ["é🌀"]], "truncated": True}
    server.will_answer(
        ok(KNOWN), ok([]), ok([counter(name="\x1b]0;x\x07")]), ok(KNOWN), ok([]), ok([counter()]), ok(rows)
    )
    assert "\\x1b]0;x\\x07" in run("objects", "info", "Counter", "x").out
    outcome = run("objects", "sql", "Counter", "a/b", "SELECT x")
    assert [line.strip() for line in outcome.out.splitlines()] == ["x", "\\x1b[31m\\n", "é🌀"]
    assert "There are more rows" in outcome.err
    assert server.requests[-1].path == f"{NAMESPACES}/Old/objects/{ID}/query"
    assert server.requests[-1].body == {"sql": "SELECT x", "limit": 100}


def test_what_there_is_not_is_said(run: Any, server: Any) -> None:
    server.will_answer(ok(KNOWN), ok([]), ok(KNOWN), ok([]), ok([]))
    outcome = run("objects", "info", "Cart", "a")
    assert (outcome.code, outcome.out) == (1, "")
    assert "there is no class 'Cart'; known are Counter, Registry" in outcome.err
    assert "no object of that class with the name 'a'" in run("objects", "info", "Counter", "a").err


def test_an_id_that_is_none_is_said_before_anybody_is_asked(run: Any, server: Any) -> None:
    server.will_answer(ok(KNOWN), ok([]))
    err = run("objects", "info", "Counter", "abc", "--id").err
    assert "an id is 64 hexadecimal digits; leave out --id to find 'abc' by its name" in err


def test_an_object_without_a_name_has_none(run: Any, server: Any) -> None:
    server.will_answer(ok(KNOWN), ok([]), ok([counter(name=None)]))
    assert "(none)" in run("objects", "info", "Counter", "a").out
