"""Mistakes in `fetch`: a 500 whose request id leads to the traceback, and never a 4xx with the server's insides."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from penstock import Context, DurableObject, Headers, NotFound, Request, Response
from penstock.apps import Application

from .conftest import MakeFace
from .harness import Face


class Boom(DurableObject[None]):
    public = True

    def __init__(self, ctx: Context, env: None) -> None:
        super().__init__(ctx, env)
        if ctx.id.name == "stillborn":
            raise ValueError("a secret")

    async def fetch(self, request: Request) -> Response:
        result: Any = await getattr(self, request.path[1:])(request)
        return result  # type: ignore[no-any-return]

    async def nothing(self, request: Request) -> Any:
        return None

    async def text(self, request: Request) -> Any:
        return "hello"

    async def text_body(self, request: Request) -> Any:
        return Response("hello")  # type: ignore[arg-type]

    async def dict_headers(self, request: Request) -> Any:
        return Response(b"", 200, {"a": "b"})  # type: ignore[arg-type]

    async def status(self, request: Request) -> Any:
        return Response(b"", 99)

    async def header_value(self, request: Request) -> Any:
        return Response(b"", 200, Headers.of({"a": 7}))  # type: ignore[dict-item]

    async def binding(self, request: Request) -> Any:
        self.ctx.storage.sql.exec("SELECT ?1", object())  # type: ignore[arg-type]

    async def no_file(self, request: Request) -> Any:
        await self.ctx.buckets.get("my-bucket", "nope")

    async def of_another(self, request: Request) -> Any:
        await self.ctx.namespace("Boom").get_by_name("other").fetch(Request("GET", "/binding"))

    async def not_found(self, request: Request) -> Any:
        raise NotFound("no such page")

    async def json(self, request: Request) -> Any:
        return Response.json(request.json())


@pytest.fixture
def face(make_face: MakeFace) -> Face:
    return make_face(application=Application("app.py", (Boom,)))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nothing", "it gave None, not a Response. Is a `return` missing?"),
        ("text", "it gave a value of type str, not a Response"),
        ("text_body", "a Response's body must be bytes, not str; use Response.text(…) or .json(…)"),
        ("dict_headers", "a Response's headers must be Headers; use Headers.of({…})"),
        ("status", "a Response's status must be from 200 to 599, not 99"),
        ("header_value", "a header's name and value are str: 'a': 7"),
        ("binding", "Binding 1 is of type object"),
        ("no_file", "There is no 'nope' in the bucket my-bucket."),
        ("of_another", "Binding 1 is of type object"),
    ],
)
def test_a_mistake_in_fetch_is_500_and_its_request_id_leads_to_the_traceback(
    face: Face, path: str, words: str
) -> None:
    with capture_logs(processors=[merge_contextvars]) as logs:
        answer = face.get(f"/objects/Boom/a/{path}")
    status, _, message = answer.ingest_error
    id = answer.headers["x-request-id"]
    expected = f"Something went wrong; the server's log has the details under request id {id}."
    assert (status, message) == (500, expected)
    line = next(line for line in logs if line["event"] == "object_method_failed")
    assert line["request_id"] == id and words in str(line["exc_info"])


def test_a_constructor_that_fails_is_found_by_the_request_id_too(face: Face) -> None:
    with capture_logs(processors=[merge_contextvars]) as logs:
        answer = face.get("/objects/Boom/stillborn/text")
    assert answer.status == 500
    [line] = [line for line in logs if line["event"] == "object_not_started"]
    assert line["request_id"] == answer.headers["x-request-id"] and isinstance(line["exc_info"], ValueError)


def test_what_fetch_raises_itself_and_a_body_that_is_not_json_stay_the_clients(face: Face) -> None:
    with capture_logs() as logs:
        assert face.get("/objects/Boom/a/not_found").ingest_error == (404, 0, "no such page")
        assert face.request("POST", "/objects/Boom/a/json", b"{").ingest_error[0] == 400
    assert not [line for line in logs if line["log_level"] == "error"]


def test_two_requests_at_once_each_log_their_own_id(face: Face) -> None:
    with capture_logs(processors=[merge_contextvars]) as logs:
        exchanges = [face.open("GET", f"/objects/Boom/{name}/nothing") for name in "ab"]
        for exchange in exchanges:
            exchange.send(b"", more=False)
        ids = {exchange.answer().headers["x-request-id"] for exchange in exchanges}  # type: ignore[union-attr]
    logged = {line["request_id"] for line in logs if line["event"] == "object_method_failed"}
    assert len(ids) == 2 and logged == ids
