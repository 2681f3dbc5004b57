"""Tokens with scopes: each may do what it says, nothing else, and only until it is revoked or expires. Fault G6."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.base.limits import TOKEN_TRUSTED_MS_MAX
from penstock.tokens.grants import SCOPES
from penstock.tokens.token_registry import token_hash

from .harness import ACCOUNT, PIPELINES, TOKEN, Answer, Face, pipeline_body

TOKENS = f"/client/v4/accounts/{ACCOUNT}/tokens"
QUERY = f"/client/v4/accounts/{ACCOUNT}/query"
WITH_TOKEN = [{"type": "http", "authentication": True}]


def make(face: Face, *scopes: str, **more: Any) -> dict[str, Any]:
    token: dict[str, Any] = face.control("POST", TOKENS, {"name": "test", "scopes": list(scopes)} | more).result
    return token


def bearing(face: Face, secret: str, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    return face.request(method, target, body, {"authorization": f"Bearer {secret}"} | headers)


def routes(face: Face) -> list[tuple[str, str, str]]:
    """Scope, method and path of every route that is not public."""
    fill = {"account": ACCOUNT, "name": "clicks", "namespace": "Registry", "object": "0" * 64, "token": "0" * 32}
    return [
        # A tail of a right share would have no end.
        (endpoint.policy, endpoint.method, endpoint.path.format(**fill).replace("/tail", "/tail?sample=0"))
        for endpoint in face.node.app.control.endpoints
        if endpoint.policy != "public"
    ]


def test_the_secret_is_told_once_and_only_its_hash_is_kept(face: Face) -> None:
    made = make(face, "pipelines:send")
    secret = made.pop("token")
    assert secret.startswith("pst_") and len(secret) == 68
    listed = face.control("GET", TOKENS)
    assert listed.result == [made]
    assert listed.json["result_info"] == {"page": 1, "per_page": 20, "count": 1, "total_count": 1}
    stored = b"".join(path.read_bytes() for path in face.folder.rglob("*") if path.is_file())
    assert secret.encode() not in stored and secret[4:].encode() not in stored
    assert token_hash(secret).encode() in stored


def test_what_is_asked_for_is_what_is_described(face: Face) -> None:
    made = make(
        face,
        "pipelines:send",
        "pipelines:read",
        pipelines=["clicks", "orders"],
        expires_at="2999-12-31T23:59:59.5+01:00",
    )
    assert made["scopes"] == ["pipelines:send", "pipelines:read"]
    assert made["pipelines"] == ["clicks", "orders"]
    assert made["expires_at"] == "2999-12-31T22:59:59.500000Z"
    assert make(face, "admin")["pipelines"] == ["*"] and make(face, "admin")["expires_at"] is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "must be a JSON object"),
        ({}, "name is required"),
        ({"name": "x"}, "scopes is required"),
        ({"name": ""}, "name must be text of 1 to 100 characters"),
        ({"name": "x" * 101}, "name must be text of 1 to 100 characters"),
        ({"name": "\x1b[31m"}, "name must be printable"),
        ({"scopes": []}, "scopes must be a list of one or more of pipelines:send, "),
        ({"scopes": ["pipelines:everything"]}, "scopes must be a list of one or more of "),
        ({"pipelines": []}, "pipelines must be a list of 1 to 100 names"),
        ({"pipelines": "*"}, "pipelines must be a list of 1 to 100 names"),
        ({"pipelines": ["../x"]}, "pipelines holds '../x', which can be no pipeline's name"),
        ({"scopes": ["admin"], "pipelines": ["clicks"]}, "pipelines must be ['*'] or left out"),
        ({"expires_at": "tomorrow"}, "expires_at must be a time with an offset"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at must be a time with an offset"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at must be in the future"),
        (
            {"expires_at": "9999-12-31T23:59:59-01:00"},
            "expires_at must be in the future, and before the year 10000",
        ),
        ({"scope": "admin"}, "scope is not known; a token may have name, scopes, pipelines and expires_at"),
    ],
)
def test_what_is_wrong_is_refused_naming_the_field(face: Face, body: Any, words: str) -> None:
    if isinstance(body, dict) and body and body != {"name": "x"}:
        body = {"name": "test", "scopes": ["pipelines:send"]} | body
    status, code, message = face.control("POST", TOKENS, body).control_error
    assert (status, code) == (400, 1012)
    assert words in message
    assert face.control("GET", TOKENS).result == []


def test_sending_needs_the_scope_for_this_pipeline(face: Face) -> None:
    clicks, orders = (face.create(name, source=WITH_TOKEN) for name in ("clicks", "orders"))
    for scopes, pipelines, expected in (
        (["pipelines:send"], ["*"], (200, 200)),
        (["pipelines:send"], ["clicks"], (200, 403)),
        (["pipelines:send"], ["orders", "clicks"], (200, 200)),
        (["pipelines:send"], ["click"], (403, 403)),
        (["pipelines:write", "pipelines:read"], ["*"], (403, 403)),
        (["objects:read"], ["*"], (403, 403)),
        (["admin"], ["*"], (200, 200)),
    ):
        secret = make(face, *scopes, pipelines=pipelines)["token"]
        answers = [bearing(face, secret, "POST", f"/ingest/{id}", b"[{}]") for id in (clicks, orders)]
        assert tuple(answer.status for answer in answers) == expected, (scopes, pipelines)
        for answer in answers:
            if answer.status == 403:
                _, code, message = answer.ingest_error
                assert code == 10000
                assert message.startswith("The token does not have the scope 'pipelines:send' for pipeline '")


def test_g6_every_route_takes_its_own_scope_and_no_other(face: Face) -> None:
    face.create()
    for scope in SCOPES:
        secret = make(face, scope)["token"]
        for policy, method, path in routes(face):
            status = bearing(face, secret, method, path, b"nonsense").status
            if scope in (policy, "admin"):
                assert status not in (401, 403), (scope, method, path)
            else:
                assert status == 403, (scope, method, path)
            if method == "DELETE" and path.endswith("clicks") and status == 200:
                face.create()


def test_g6_every_route_about_one_pipeline_wants_a_token_for_that_one(face: Face) -> None:
    face.create()
    own, other = (
        make(face, "pipelines:read", "pipelines:write", pipelines=[name])["token"] for name in ("clicks", "orders")
    )
    for policy, method, path in routes(face):
        if not policy.startswith("pipelines:") or path == QUERY:
            continue
        assert bearing(face, other, method, path).status == 403, (method, path)
        # Listing all and making new ones is about more than one.
        assert (bearing(face, own, method, path, b"nonsense").status == 403) == path.endswith("/pipelines")
        if method == "DELETE":
            face.create()


def test_g6_a_query_reads_the_pipelines_of_its_token_alone(face: Face) -> None:
    for name in ("clicks", "more-clicks", "orders", "clicks-2"):
        face.ingest(face.create(name), [{"n": 1}])

    def ask(secret: str, sql: str) -> Answer:
        return bearing(face, secret, "POST", QUERY, json.dumps({"sql": sql, "live": True}).encode())

    some = make(face, "pipelines:read", pipelines=["clicks", "more-clicks", "none"])["token"]
    for table in ("clicks", "more_clicks", '"more-clicks"', "CLICKS"):
        assert ask(some, f"SELECT n FROM {table}").result["rows"] == [[1]]
    for sql in (
        "SELECT n FROM orders",
        "SELECT n FROM clicks_2",
        "SELECT n FROM clicks UNION ALL SELECT n FROM orders",
        "SELECT n FROM clicks WHERE n IN (SELECT n FROM orders)",
        "SELECT n FROM not_there",
    ):
        status, code, message = ask(some, sql).control_error
        assert (status, code) == (403, 10000), sql
        assert "for pipeline '" in message
    # A name that the query gives something itself is no pipeline of others.
    hidden = ask(some, "WITH orders AS (SELECT n FROM orders) SELECT n FROM orders")
    assert hidden.status == 400 and b"[[1]]" not in hidden.body
    assert ask(some, "WITH orders AS (SELECT n + 1 AS n FROM clicks) SELECT n FROM orders").result["rows"] == [[2]]
    status, _, message = ask(some, 'SELECT n FROM "none"').control_error
    assert status == 404 and "clicks" in message and "orders" not in message and "clicks-2" not in message
    send = make(face, "pipelines:send", "pipelines:write")["token"]
    assert ask(send, "SELECT n FROM clicks").control_error[:2] == (403, 10000)
    assert ask(make(face, "pipelines:read")["token"], "SELECT n FROM orders").result["rows"] == [[1]]


def test_g6_numbers_by_pipeline_are_for_tokens_that_may_read_all_of_them(face: Face) -> None:
    face.ingest(face.create(), [{}])

    def scrape(*scopes: str, **more: Any) -> Answer:
        return bearing(face, make(face, *scopes, **more)["token"], "GET", "/metrics")

    assert b'pipeline="clicks"' in scrape("pipelines:read").body
    for answer in (scrape("pipelines:send"), scrape("pipelines:read", pipelines=["clicks"])):
        assert answer.status == 403 and b'pipeline="' not in answer.body


@pytest.mark.parametrize(
    "damage",
    [
        lambda secret: secret[:-1],
        lambda secret: secret + "0",
        lambda secret: secret.upper(),
        lambda secret: secret[4:],
        lambda secret: "pst_" + "0" * 64,
        lambda secret: token_hash(secret),
        lambda secret: "pst_" + token_hash(secret),
        lambda secret: f"{secret} {secret}",
        lambda secret: f"{secret},{TOKEN}",
        lambda secret: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
        lambda secret: "' OR 1=1 --",
    ],
)
def test_g6_what_is_not_quite_a_token_is_none(face: Face, damage: Any) -> None:
    pipeline = face.create(source=WITH_TOKEN)
    wrong = damage(make(face, *SCOPES)["token"])
    for _ in range(2):  # the second time it is remembered that there is none
        assert bearing(face, wrong, "POST", f"/ingest/{pipeline}", b"[{}]").ingest_error[:2] == (401, 10000)
        for _, method, path in routes(face):
            assert bearing(face, wrong, method, path).status == 401, (method, path)


def test_g6_no_header_and_no_spelling_of_a_path_gets_around_the_scope(face: Face) -> None:
    pipeline = face.create(source=WITH_TOKEN)
    secret = make(face, "pipelines:read", pipelines=["clicks"])["token"]
    attempts = [
        ("GET", f"{PIPELINES}/clicks", {"x-http-method-override": "DELETE"}),
        ("GET", f"{PIPELINES}/clicks", {"x-http-method": "DELETE", "x-method-override": "DELETE"}),
        ("GET", f"{PIPELINES}/clicks?_method=DELETE", {}),
        ("POST", f"{PIPELINES}/clicks", {"x-http-method-override": "DELETE"}),
        ("DELETE", f"{PIPELINES}/clicks", {"x-original-url": "/livez", "x-rewrite-url": "/livez"}),
        ("DELETE", f"{PIPELINES}/clicks", {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"}),
        ("DELETE", f"{PIPELINES}/clicks", {"forwarded": "for=127.0.0.1", "x-forwarded-host": "localhost"}),
        ("DELETE", f"{PIPELINES}/clicks", {"host": "localhost"}),
        ("DELETE", f"{PIPELINES}/%63licks", {}),
        ("DELETE", PIPELINES.replace("client", "CLIENT") + "/clicks", {}),
        ("DELETE", PIPELINES.replace("client", "%63lient") + "/clicks", {}),
        ("DELETE", f"/{PIPELINES}/clicks", {}),
        ("DELETE", f"/livez/..{PIPELINES}/clicks", {}),
        ("DELETE", f"/livez/%2e%2e{PIPELINES}/clicks", {}),
        ("DELETE", f"{PIPELINES}/clicks/", {}),
        ("DELETE", f"{PIPELINES}/clicks;x=/livez", {}),
        ("GET", f"{PIPELINES}/clicks/../orders", {}),
        ("POST", f"/ingest/{pipeline}", {"x-forwarded-for": "127.0.0.1"}),
        ("POST", f"/INGEST/{pipeline}", {}),
        ("POST", f"/%69ngest/{pipeline}", {}),
        ("POST", f"/ingest/{pipeline}?token={TOKEN}", {}),
        ("POST", "/", {"host": f"{pipeline}.localhost"}),
    ]
    for method, target, headers in attempts:
        status = bearing(face, secret, method, target, b"[{}]", **headers).status
        harmless = method == "GET" and status == 200
        assert harmless or status in (401, 403, 404, 405), (method, target, headers, status)
    assert face.control("GET", f"{PIPELINES}/clicks").status == 200
    assert face.drain() == []


def test_a_revoked_token_is_refused_within_five_seconds(face: Face) -> None:
    pipeline = face.create(source=WITH_TOKEN)
    made = make(face, "pipelines:send")
    send = lambda: bearing(face, made["token"], "POST", f"/ingest/{pipeline}", b"[{}]").status  # noqa: E731
    assert send() == 200
    assert face.control("DELETE", f"{TOKENS}/{made['id']}").result is None
    revoked_ms = face.now_ms()
    face.wait(lambda: send() == 401)
    assert face.now_ms() - revoked_ms < TOKEN_TRUSTED_MS_MAX + 1_000
    status, code, message = face.control("DELETE", f"{TOKENS}/{made['id']}").control_error
    assert (status, code, message) == (404, 1001, f"There is no token with ID {made['id']!r}.")
    assert face.control("GET", TOKENS).result == []


def test_an_expired_token_is_refused_also_when_it_is_remembered(face: Face) -> None:
    pipeline = face.create(source=WITH_TOKEN)
    expires_at = (datetime.now(UTC) + timedelta(milliseconds=1_500)).isoformat()
    made = make(face, "pipelines:send", expires_at=expires_at)
    send = lambda: bearing(face, made["token"], "POST", f"/ingest/{pipeline}", b"[{}]").status  # noqa: E731
    assert send() == 200
    face.wait(lambda: send() == 401)
    assert datetime.now(UTC) >= datetime.fromisoformat(expires_at)


def test_a_token_made_after_it_was_tried_works_soon(face: Face) -> None:
    """That there is no such token is remembered for a second only."""
    made = make(face, "pipelines:send")
    pipeline = face.create(source=WITH_TOKEN)
    assert bearing(face, "pst_" + "0" * 64, "POST", f"/ingest/{pipeline}", b"[{}]").status == 401
    assert bearing(face, made["token"], "POST", f"/ingest/{pipeline}", b"[{}]").status == 200


def test_tokens_outlive_the_pipelines_they_name_and_their_changes(face: Face) -> None:
    pipeline = face.create(source=WITH_TOKEN)
    secret = make(face, "pipelines:send", pipelines=["clicks"])["token"]
    assert (
        face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(source=WITH_TOKEN, batch={"max_rows": 5})).status
        == 200
    )
    assert bearing(face, secret, "POST", f"/ingest/{pipeline}", b"[{}]").status == 200
    assert face.control("DELETE", f"{PIPELINES}/clicks").status == 200
    again = face.create(source=WITH_TOKEN)
    assert bearing(face, secret, "POST", f"/ingest/{again}", b"[{}]").status == 200


def test_the_401_says_where_a_token_is_found(face: Face) -> None:
    message = face.get(PIPELINES).control_error[2]
    assert "'penstock token' prints one" in message
