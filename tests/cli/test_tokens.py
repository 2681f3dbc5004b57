from __future__ import annotations

import json
from typing import Any

import pytest

TOKEN = {
    "id": "7" * 32,
    "name": "web shop",
    "scopes": ["pipelines:send"],
    "pipelines": ["clicks"],
    "created_at": "2026-11-25T00:00:00Z",
    "expires_at": None,
}


@pytest.fixture(autouse=True)
def target(run: Any, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    monkeypatch.setenv("PENSTOCK_URL", server.url)
    monkeypatch.setenv("PENSTOCK_ACCOUNT_ID", "a" * 32)
    monkeypatch.setenv("PENSTOCK_TOKEN", "the-token")


def envelope(result: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result}


def test_create_prints_the_secret_alone_so_that_a_shell_can_keep_it(run: Any, server: Any) -> None:
    server.answer = lambda request: envelope(TOKEN | {"token": "pst_secret"})
    outcome = run("tokens", "create", "web shop", "--scope", "pipelines:send", "--pipeline", "clicks")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "pst_secret\n"
    assert "shown only now" in outcome.err
    [request] = server.requests
    assert (request.method, request.path.rsplit("/", 1)[1]) == ("POST", "tokens")
    assert request.body == {
        "name": "web shop",
        "scopes": ["pipelines:send"],
        "pipelines": ["clicks"],
        "expires_at": None,
    }


def test_without_names_a_token_is_for_all_pipelines(run: Any, server: Any) -> None:
    server.answer = lambda request: envelope(TOKEN | {"token": "pst_secret"})
    run(
        "tokens",
        "create",
        "x",
        "--scope",
        "admin",
        "--scope",
        "pipelines:read",
        "--expires-at",
        "2030-01-01T00:00:00Z",
    )
    [request] = server.requests
    assert request.body["pipelines"] == ["*"]
    assert request.body["scopes"] == ["admin", "pipelines:read"]
    assert request.body["expires_at"] == "2030-01-01T00:00:00Z"


def test_list_shows_what_each_may_do(run: Any, server: Any) -> None:
    server.answer = lambda request: envelope([TOKEN] if "page=1&" in request.path else [])
    out = run("tokens", "list").out
    assert out.split("\n")[1].split() == ["web", "shop", "7" * 32, "pipelines:send", "clicks", "never"]
    assert json.loads(run("tokens", "list", "--json").out) == [TOKEN]


def test_revoke_revokes(run: Any, server: Any) -> None:
    server.answer = lambda request: envelope(None)
    assert "Revoked token 777" in run("tokens", "revoke", "777").out
    [request] = server.requests
    assert request.method == "DELETE" and request.path.endswith("/tokens/777")
