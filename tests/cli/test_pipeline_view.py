"""What `get`, `deployments` and `delete --discard` show."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.pipeline_view import differences, trouble

from .test_terminal import at_a_terminal

ID = "0e00c5ff" * 4
BACKLOG = {"records": 1234, "bytes": 5_600_000, "oldest_at": "2026-11-25T02:14:05.123Z"}
SHARD = {
    "name": f"{ID}/3/0.1",
    "version": 3,
    "state": "open",
    "executor": 1,
    "reachable": True,
    "backlog": BACKLOG,
    "failures": 0,
    "last_error": None,
    "retry_at": None,
    "paused": False,
}


@pytest.fixture(autouse=True)
def credentials(server: Any, write_credentials: Callable[..., Path]) -> Path:
    return write_credentials(server.url)


def ok(result: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result}


@pytest.fixture
def running(pipeline: dict[str, Any]) -> dict[str, Any]:
    return pipeline | {"status": "running", "backlog": BACKLOG, "shards": [SHARD]}


def shown(out: str) -> dict[str, str]:
    lines = (re.split("  +", line.strip(), maxsplit=1) for line in out.splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_get_shows_status_backlog_and_shards(run: Any, server: Any, running: Any) -> None:
    server.will_answer(ok(running))
    out = run("pipelines", "get", "clicks").out
    rows = shown(out)
    assert rows["Status"] == "running"
    assert rows["Backlog"] == "1,234 records (5.6 MB), the oldest of 2026-11-25 02:14:05Z"
    heading, row = (line for line in out.splitlines() if line.startswith(("  SHARD", "  3/0.1")))
    assert re.split("  +", heading.strip())[:4] == ["SHARD", "VERSION", "STATE", "EXECUTOR"]
    assert re.split("  +", row.strip()) == [
        "3/0.1",
        "3",
        "open",
        "1",
        "1,234",
        "5.6 MB",
        "2026-11-25 02:14:05Z",
        "0",
    ]
    assert "tried again" not in out


def test_get_says_why_a_pipeline_is_paused_and_what_to_do(run: Any, server: Any, running: Any) -> None:
    running |= {
        "status": "paused",
        "paused_since": "2026-11-25T02:00:00.000Z",
        "failure_reason": "Could not put x in the bucket b: the server answered 403. Check access_key_id.\x1b[0m",
        "shards": [SHARD | {"paused": True, "failures": 2, "retry_at": "2026-11-25T02:15:00.000Z"}],
    }
    running["destination"]["credentials"] = {"endpoint": "https://s3.example", "region": "auto", "path_style": True}
    server.will_answer(ok(running))
    out = run("pipelines", "get", "clicks").out
    assert "Delivery is paused since 2026-11-25 02:00:00Z: Could not put x in the bucket b" in out
    assert "no record is lost" in out and "next at 2026-11-25 02:15:00Z" in out
    assert "penstock pipelines update clicks --access-key-id ID" in out
    assert "open, paused" in out
    assert "\x1b" not in out
    assert shown(out)["Bucket at"] == "https://s3.example (region auto)"


def test_get_says_that_deliveries_fail_before_they_pause_anything(run: Any, server: Any, running: Any) -> None:
    failing = SHARD | {"failures": 3, "last_error": "no answer (timeout)", "retry_at": "2026-11-25T02:15:00.000Z"}
    running["shards"] = [failing]
    server.will_answer(ok(running))
    out = run("pipelines", "get", "clicks").out
    assert shown(out)["Status"] == "running, but files cannot be delivered now"
    assert "Files could not be delivered: no answer (timeout)" in out
    assert trouble(running | {"shards": [SHARD]}) is None


def test_a_shard_that_cannot_be_reached_shows_that_nothing_is_known_of_it(
    run: Any, server: Any, running: Any
) -> None:
    running["shards"] = [
        {key: SHARD[key] for key in ("name", "version", "state", "executor")} | {"reachable": False}
    ]
    server.will_answer(ok(running))
    assert re.search(
        r"3/0\.1 +3  open, not reachable +1 +\? +\? +\? +\?$", run("pipelines", "get", "clicks").out, re.M
    )


def test_deployments_show_what_each_changed(run: Any, server: Any, pipeline: Any) -> None:
    first = {key: pipeline[key] for key in ("source", "transforms", "destination", "metadata")} | {
        "version": 1,
        "state": "drained",
        "created_at": "2026-11-25T01:00:00.000Z",
        "drained_at": "2026-11-25T02:00:30.000Z",
        "shards": 2,
        "code_version": None,
    }
    second = copy.deepcopy(first) | {
        "version": 2,
        "state": "active",
        "created_at": "2026-11-25T02:00:00.000Z",
        "drained_at": None,
        "transforms": [{"name": "clean"}],
        "code_version": "1f00aa",
    }
    second["destination"]["batch"]["max_duration_s"] = 10
    server.will_answer(ok([second, first]), ok([second, first]))
    heading, newest, oldest = run("pipelines", "deployments", "clicks").out.splitlines()
    assert heading.split() == ["VERSION", "STATE", "CREATED", "DRAINED", "SHARDS", "CHANGED"]
    assert newest.endswith("  transforms none → clean; code none → 1f00aa; batch age 300 s → 10 s")
    assert re.split("  +", oldest.strip()) == ["1", "drained", "2026-11-25 01:00:00Z", "2026-11-25 02:00:30Z", "2"]
    assert [request.path.rsplit("/", 2)[1:] for request in server.requests] == [["clicks", "deployments"]]
    assert json.loads(run("pipelines", "deployments", "clicks", "--json").out) == [second, first]


def test_a_change_that_nobody_is_shown_is_one_of_the_key(pipeline: Any) -> None:
    assert differences(pipeline, pipeline) == ["access to the bucket"]
    elsewhere = copy.deepcopy(pipeline)
    elsewhere["destination"]["credentials"] = {
        "endpoint": "https://s3.example",
        "region": "eu-1",
        "path_style": False,
    }
    assert differences(pipeline, elsewhere) == [
        "bucket at the server itself → https://s3.example (region eu-1, bucket in the host name)"
    ]


def test_discarding_is_not_done_where_nobody_can_be_asked_unless_that_is_meant(run: Any, server: Any) -> None:
    server.answer = lambda request: ok(None)
    outcome = run("pipelines", "delete", "clicks", "--discard")
    assert (outcome.code, outcome.err) == (
        2,
        "error: --discard loses records: pass --yes as well where nobody can be asked.\n",
    )
    assert server.requests == []
    assert run("pipelines", "delete", "clicks", "--discard", "--yes").out == "✅ Deleted pipeline clicks\n"
    [request] = server.requests
    assert (request.method, request.path.rsplit("/", 1)[1]) == ("DELETE", "clicks?discard=true")


@pytest.mark.parametrize(("answer", "code", "methods"), [("n", 1, ["GET"]), ("y", 0, ["GET", "DELETE"])])
def test_at_a_terminal_discarding_is_asked_about_with_what_would_be_lost(
    server: Any, running: Any, tmp_path: Path, answer: str, code: int, methods: list[str]
) -> None:
    server.answer = lambda request: ok(running if request.method == "GET" else None)
    ended, out = at_a_terminal(
        *("pipelines", "delete", "clicks", "--discard"), cwd=tmp_path, typed=f"{answer}\n", NO_COLOR="1"
    )
    assert ended == code
    assert "Delete clicks and lose 1,234 records (5.6 MB) that are in no file yet? [y/N]" in out
    assert ("error: nothing was deleted" in out) == bool(code)
    assert [request.method for request in server.requests] == methods
