"""`penstock pipelines replay`: steps, waits, and what --since may be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.cli import steps
from penstock.cli.errors import WrongFlag
from penstock.cli.replay import parse_since


@pytest.fixture(autouse=True)
def target(run: Any, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    monkeypatch.setenv("PENSTOCK_URL", server.url)
    monkeypatch.setenv("PENSTOCK_ACCOUNT_ID", "a" * 32)
    monkeypatch.setenv("PENSTOCK_TOKEN", "the-token")


def envelope(result: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result}


def step(records: int, cursor: str | None = None, **more: Any) -> tuple[int, Any]:
    replayed = {"files": 1, "records": records, "reasons": {"error": records}}
    return envelope({"replayed": replayed, "skipped": [], "cursor": cursor} | more)


def test_steps_go_on_until_nothing_is_left(run: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(steps.time, "sleep", slept.append)
    server.will_answer(
        envelope({"name": "clicks"}),
        step(3, "one"),
        step(0, "two", retry_after_s=7, waits_for="Too much waits."),
        step(2),
    )
    outcome = run("pipelines", "replay", "clicks", "--since", "2026-11-23T00:00", "--reason", "error")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "✅ Sent 5 records of 3 dead-letter files (5 error)\n"
    assert (slept, outcome.err) == ([7], "waiting 7 s: Too much waits.\n")
    asked = {"since": "2026-11-23T00:00:00+00:00", "dry_run": False, "reason": "error"}
    assert [request.body for request in server.requests[1:]] == [
        asked,
        asked | {"cursor": "one"},
        asked | {"cursor": "two"},
    ]


def test_files_that_were_not_sent_are_named_and_the_exit_code_says_so(run: Any, server: Any) -> None:
    skipped = [{"key": "_dead/1.json", "message": "It was changed."}]
    server.will_answer(envelope({"name": "clicks"}), step(1, skipped=skipped))
    outcome = run("pipelines", "replay", "clicks", "--since", "2h", "--dry-run")
    assert outcome.code == 1
    assert (
        outcome.out == "Would send 1 records of 1 dead-letter files (1 error)\n❌ _dead/1.json: It was changed.\n"
    )


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30m", "2026-11-23T11:30:00+00:00"),
        ("2h", "2026-11-23T10:00:00+00:00"),
        ("7d", "2026-11-16T12:00:00+00:00"),
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T01:30Z", "2026-11-23T01:30:00+00:00"),
        ("2026-11-23T01:30+01:00", "2026-11-23T00:30:00+00:00"),
    ],
)
def test_since_is_a_time_or_how_long_ago(text: str, at: str) -> None:
    assert parse_since(text, datetime(2026, 11, 23, 12, tzinfo=UTC)) == at


@pytest.mark.parametrize("text", ["", "yesterday", "2 h", "-1h", "999999d", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(WrongFlag, match="--since"):
        parse_since(text, datetime(2026, 11, 23, 12, tzinfo=UTC))
