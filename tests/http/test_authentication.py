"""Fault G6: every route needs the account's token, except those that are public on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from penstock import DurableObject, Request, Response
from penstock.apps import Application
from penstock.http.control import Endpoint

from .conftest import MakeFace
from .harness import ACCOUNT, PIPELINES, TOKEN, Answer, Face

PUBLIC = {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"}
WITH_HTTP_TOKEN = [{"type": "http", "authentication": True}]


def paths(face: Face, policy: str, account: str = ACCOUNT) -> Iterator[tuple[str, str]]:
    """Method and path of every route of a policy."""
    for endpoint in face.node.app.control.endpoints:
        if (endpoint.policy == "public") == (policy == "public"):
            path = endpoint.path.replace("{account}", account).replace("{name}", "clicks")
            path = (
                path.replace("{namespace}", "Registry").replace("{object}", "0" * 64).replace("{token}", "0" * 32)
            )
            assert "{" not in path, f"tell this test what to fill into {endpoint.path}"
            yield endpoint.method, path
            if endpoint.method == "GET":
                yield "HEAD", path  # Starlette makes it so


def bearing(face: Face, method: str, path: str, authorization: str | None) -> Answer:
    headers = {} if authorization is None else {"authorization": authorization}
    return face.request(method, path, b"{}", headers)


def test_the_public_routes_are_exactly_these(face: Face) -> None:
    assert {path for _, path in paths(face, "public")} == PUBLIC
    for method, path in paths(face, "public"):
        assert bearing(face, method, path, None).status == 200


def test_what_the_walk_walks_is_all_there_is(face: Face) -> None:
    control = face.node.app.control
    routes = {(method, route.path) for route in control.app.routes for method in route.methods}
    known = {(endpoint.method, endpoint.path) for endpoint in control.endpoints}
    assert routes == known | {("HEAD", path) for method, path in known if method == "GET"}
    assert len(known) == len(control.endpoints)


def test_a_route_cannot_be_written_without_a_policy() -> None:
    [policy] = [field for field in dataclasses.fields(Endpoint) if field.name == "policy"]
    assert policy.default is dataclasses.MISSING
    assert policy.default_factory is dataclasses.MISSING


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer Bearer {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        f"{TOKEN} Bearer",
        "Bearer \xff\xfe",
    ],
)
def test_every_other_route_refuses_what_is_not_the_token(face: Face, authorization: str | None) -> None:
    face.create()
    for account in (ACCOUNT, "b" * 32):  # a stranger does not learn which account there is
        for method, path in paths(face, "token", account):
            answer = bearing(face, method, path, authorization)
            status, code, message = answer.control_error
            assert (status, code) == (401, 10000), (method, path)
            assert message.startswith("Authentication error: ")
            assert TOKEN not in message
            assert answer.headers["www-authenticate"] == "Bearer"
    assert face.control("GET", f"{PIPELINES}/clicks").status == 200  # nothing was done


@pytest.mark.parametrize("account", ["b" * 32, ACCOUNT.upper(), "me", f"{ACCOUNT} ", "%2e%2e", "x" * 1_000])
def test_every_other_route_refuses_the_token_for_another_account(face: Face, account: str) -> None:
    face.create()
    for method, path in paths(face, "token", account):
        status, code, message = bearing(face, method, path, f"Bearer {TOKEN}").control_error
        assert (status, code) == (403, 10000), (method, path)
        assert message == f"The token does not cover account {unquote(account)[:64]!r}; its account is {ACCOUNT}."


def test_the_scheme_is_read_as_http_reads_it(face: Face) -> None:
    for authorization in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "):
        assert bearing(face, "GET", PIPELINES, authorization).status == 200


@pytest.mark.parametrize(
    "path", [f"/{PIPELINES}", PIPELINES.upper(), f"{PIPELINES}/", f"/x/..{PIPELINES}", f"{PIPELINES}/clicks/.."]
)
def test_another_spelling_of_a_path_leads_nowhere(face: Face, path: str) -> None:
    for authorization in (None, f"Bearer {TOKEN}"):
        answer = bearing(face, "GET", path, authorization)
        assert answer.status in (401, 404) if authorization is None else answer.status in (400, 404)


@pytest.mark.parametrize(
    "header", ["x-http-method-override", "x-original-url", "x-forwarded-for", "x-forwarded-host"]
)
def test_no_other_header_opens_a_route(face: Face, header: str) -> None:
    for value in ("GET", "/livez", "127.0.0.1", "localhost"):
        assert face.request("GET", PIPELINES, b"", {header: value}).status == 401


def test_a_pipeline_that_asks_for_the_token_gets_records_only_with_it(face: Face) -> None:
    pipeline = face.create(source=WITH_HTTP_TOKEN)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = face.ingest(pipeline, [{"refused": True}], headers)
        status, code, _ = answer.ingest_error
        assert (status, code) == (401, 10000)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert face.ingest(pipeline, [{"a": 1}], {"authorization": f"Bearer {TOKEN}"}).result == {"committed": 1}
    assert face.drain() == [b'{"a": 1}']


def test_a_pipeline_that_begins_to_ask_for_the_token_does_so_at_once(face: Face) -> None:
    pipeline = face.create()
    assert face.ingest(pipeline, [{"a": 1}]).status == 200  # its plan is cached now
    body = {"name": "clicks", "source": WITH_HTTP_TOKEN, "destination": {"path": {"bucket": "my-bucket"}}}
    assert face.control("PUT", f"{PIPELINES}/clicks", body).status == 200
    assert face.ingest(pipeline, [{"refused": True}]).status == 401
    assert face.ingest(pipeline, [{"b": 2}], {"authorization": f"Bearer {TOKEN}"}).status == 200
    assert face.drain() == [b'{"a": 1}', b'{"b": 2}']


class Closed(DurableObject):
    async def fetch(self, request: Request) -> Response:
        return Response.json([value for name, value in request.headers if name == "authorization"])


class Open(Closed):
    public = True


class Mute(DurableObject):
    pass


def test_an_objects_fetch_needs_the_token_unless_its_class_is_public(make_face: MakeFace) -> None:
    face = make_face(application=Application("app.py", (Closed, Open, Mute)))
    for path in ("/objects/Closed/a", "/objects/Mute/a", "/objects/Gone/a", "/objects/Registry/pipelines"):
        for authorization in (None, "Bearer wrong", f"Basic {TOKEN}"):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "ANY"):
                # A stranger does not learn which classes there are, nor which of them can be reached.
                answer = bearing(face, method, path, authorization)
                assert answer.ingest_error[:2] == (401, 10000), (method, path, authorization)
    assert face.node.runtime.active == 0
    assert bearing(face, "GET", "/objects/Closed/a", f"Bearer {TOKEN}").json == []  # it has no use for the token
    assert bearing(face, "GET", "/objects/Open/a", None).json == []
    assert bearing(face, "GET", "/objects/Open/a", "Bearer its-own").json == ["Bearer its-own"]
    for path in ("/objects/Mute/a", "/objects/Gone/a", "/objects/Registry/pipelines"):
        assert bearing(face, "GET", path, f"Bearer {TOKEN}").status == 404
