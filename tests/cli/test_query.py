from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakeServer, Run

FOUND: dict[str, Any] = {
    "columns": [{"name": "event", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
    "rows": [["view", 2], [None, 1.5], ['a,"b"\x1b[31m', {"x": "é"}]],
    "truncated": False,
    "files": {"read": 3, "left_out": 2, "missing": 0},
    "forgotten_records": 0,
}


@pytest.fixture(autouse=True)
def _there(server: FakeServer, write_credentials: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(write_credentials(server.url).parent))


def test_rows_are_a_table_that_commands_no_terminal(run: Run, server: FakeServer) -> None:
    server.will_answer((200, {"success": True, "result": FOUND}))
    outcome = run("query", "select event, n from clicks", "--live", "--limit", "7")
    assert outcome.code == 0 and outcome.err == ""
    words = [line.split() for line in outcome.out.splitlines()]
    assert words[:2] == [["event", "n"], ["view", "2"]] and words[2][0] == "NULL"
    assert "\x1b" not in outcome.out
    [request] = server.requests
    assert (request.method, request.path.rpartition("/")[2]) == ("POST", "query")
    assert request.body == {"sql": "select event, n from clicks", "live": True, "limit": 7}


def test_csv_can_be_read_back(run: Run, server: FakeServer) -> None:
    server.will_answer((200, {"success": True, "result": FOUND}))
    out = run("query", "select 1", "--csv").out
    assert out == 'event,n\nview,2\n,1.5\n"a,""b""\x1b[31m","{""x"": ""é""}"\n'


def test_json_is_the_result_of_the_api(run: Run, server: FakeServer) -> None:
    server.will_answer((200, {"success": True, "result": FOUND}))
    assert json.loads(run("query", "select 1", "--json").out) == FOUND
    assert run("query", "select 1", "--json", "--csv").code == 2


def test_what_is_not_in_the_rows_is_said(run: Run, server: FakeServer) -> None:
    less = FOUND | {"truncated": True, "files": {"missing": 4}, "forgotten_records": 5_000}
    server.will_answer((200, {"success": True, "result": less}))
    err = run("query", "select 1").err
    assert "--limit" in err and "4 files" in err and "5,000 records" in err


def test_an_error_is_said(run: Run, server: FakeServer) -> None:
    message = 'Binder Error: Referenced column "x" not found'
    server.will_answer((400, {"success": False, "errors": [{"code": 1010, "message": message}]}))
    outcome = run("query", "select x")
    assert outcome.code == 1 and message in outcome.err
