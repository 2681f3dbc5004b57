"""`penstock pipelines verify`: steps added up, and what its exit code says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.cli import steps

SHARD = {
    "shard": "0e00c5ff/1/0",
    "version": 1,
    "state": "open",
    "accepted": 0,
    "in_files": 3,
    "pending": 0,
    "before_ledger": 0,
    "segments": 1,
    "files": 1,
    "bytes": 1500,
    "delivered": 2,
    "dead": 1,
}


@pytest.fixture(autouse=True)
def target(run: Any, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    monkeypatch.setenv("PENSTOCK_URL", server.url)
    monkeypatch.setenv("PENSTOCK_ACCOUNT_ID", "a" * 32)
    monkeypatch.setenv("PENSTOCK_TOKEN", "the-token")


def envelope(result: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result}


def refused(status: int, message: str) -> tuple[int, Any]:
    return status, {
        "success": False,
        "errors": [{"code": 1001, "message": message}],
        "messages": [],
        "result": None,
    }


def step(*problems: Any, cursor: str | None = None, **shard: Any) -> tuple[int, Any]:
    buckets = {"objects": 1, "own": 1, "others": 0}
    checked = {"shards": [SHARD | shard], "buckets": buckets}
    return envelope({"checked": checked, "problems": list(problems), "cursor": cursor})


def test_steps_are_added_up(run: Any, server: Any) -> None:
    server.will_answer(
        envelope({"name": "clicks"}), step(cursor="next"), step(accepted=7, pending=1), step(shard="0e00c5ff/1/1")
    )
    outcome = run("pipelines", "verify", "clicks", "--deep")
    assert outcome.code == 0, outcome.err
    assert [request.path.rpartition("/")[2] for request in server.requests] == [
        "clicks",
        "verify?deep=true",
        "verify?deep=true&cursor=next",
    ]
    assert outcome.out.splitlines() == [
        "VERSION  SHARD  STATE  ACCEPTED  IN-FILES  PENDING  DELIVERED  DEAD  FILES    SIZE",
        "1        1/0    open          7         6        1          4     2      2  3.0 kB",
        "",
        "✅ clicks: each of 6 records is in exactly one file; 2 files were read; 1 records wait for one",
    ]


def test_problems_are_named_with_what_to_do_and_the_exit_code_is_1(run: Any, server: Any) -> None:
    problem = {"kind": "missing", "message": "It is not there.", "bucket": "b", "key": "a/1.json"}
    server.will_answer(envelope({"name": "clicks"}), step(*[problem] * 12))
    outcome = run("pipelines", "verify", "clicks")
    assert outcome.code == 1
    assert "clicks is not as it should be: 12 missing" in outcome.err
    lines = outcome.out.splitlines()[3:]
    assert lines[0].startswith("❌ 12 missing: restore it")
    assert lines[1:] == ["   b/a/1.json: It is not there."] * 10 + ["   … and 2 more"]


def test_json_says_all_in_one_object(run: Any, server: Any) -> None:
    server.will_answer(envelope({"name": "clicks"}), step())
    outcome = run("pipelines", "verify", "clicks", "--json")
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert (report["proven"], report["shards"], report["found"], report["problems"]) == (True, [SHARD], {}, [])


def test_what_could_not_be_looked_at_is_exit_code_2(run: Any, server: Any) -> None:
    server.will_answer(envelope({"name": "clicks"}), refused(400, "destination cannot be used: no such bucket"))
    outcome = run("pipelines", "verify", "clicks")
    assert outcome.code == 2
    assert "clicks could not be verified: destination cannot be used: no such bucket" in outcome.err


def test_a_server_that_starts_again_is_waited_for(run: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(steps.time, "sleep", slept.append)
    busy = refused(503, "starting")
    server.will_answer(envelope({"name": "clicks"}), busy, busy, step())
    assert run("pipelines", "verify", "clicks").code == 0
    server.will_answer(envelope({"name": "clicks"}), *[busy] * 5)
    assert run("pipelines", "verify", "clicks").code == 2
    assert slept == [1, 2, 1, 2, 4, 8]
