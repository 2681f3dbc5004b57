from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakeServer, Run

USAGE: dict[str, Any] = {
    "id": "0e00c5ff" * 4,
    "name": "clicks",
    "created_at": "2026-11-23T14:05:06.789Z",
    "in": {"requests": 12_345, "records": 67_890, "bytes": 5_000_000},
    "out": {"files": 3, "bytes": 1_000_000, "records": 67_000, "dead_records": 2, "dead_reasons": {"error": 2}},
    "backlog": {"records": 888, "bytes": 77_000, "oldest_at": "2026-11-24T00:00:00.000Z", "lag_ms": 4_560},
    "since_start": {"refused": {"invalid": 3, "overloaded": 1}, "delivery_failures": 5},
    "missing": {"shards": [], "executors": []},
}


@pytest.fixture(autouse=True)
def _there(server: FakeServer, write_credentials: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(write_credentials(server.url).parent))


def test_usage_shows_what_came_what_went_what_waits_and_what_failed(run: Run, server: FakeServer) -> None:
    server.will_answer((200, {"success": True, "result": USAGE}))
    outcome = run("pipelines", "usage", "clicks")
    assert outcome.code == 0 and outcome.err == ""
    lines = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in outcome.out.splitlines()}
    assert lines["Requests"] == "12,345"
    assert lines["Records out"] == "67,000"
    assert lines["Lag"] == "4.6 s"
    assert lines["Dead letters"] == "2 (2 error)"
    assert lines["Refused since start"] == "3 invalid, 1 overloaded"
    assert server.requests[0].path.endswith("/pipelines/clicks/usage")


def test_usage_says_what_is_not_in_the_sums(run: Run, server: FakeServer) -> None:
    server.will_answer(
        (200, {"success": True, "result": USAGE | {"missing": {"shards": ["s/1/0"], "executors": [1]}}})
    )
    outcome = run("pipelines", "usage", "clicks", "--json")
    assert json.loads(outcome.out)["in"]["records"] == 67_890
    assert "s/1/0" in outcome.err and "executors 1" in outcome.err
