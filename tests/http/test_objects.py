"""Requests to objects: what reaches `fetch`, and what becomes of its answer."""

from __future__ import annotations

import pytest

from penstock import Conflict, DurableObject, Headers, Invalid, NotFound, Overloaded, Request, Response, Unavailable
from penstock.apps import Application
from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import Answer, Face


class Echo(DurableObject):
    """Answers with what it got, or as the path says."""

    public = True

    async def fetch(self, request: Request) -> Response:
        match request.path:
            case "/pairs":
                pairs = [
                    ("X-Many", "1"),
                    ("x-many", "2"),
                    ("Content-Length", "9"),
                    ("Connection", "close"),
                    ("X-Request-Id", "x"),
                ]
                return Response(b"x", 201, Headers.of(pairs))
            case "/empty":
                return Response(b"not sent", int(request.query["status"][0]))
            case "/json":
                return Response.json(request.json())
            case "/text":
                return Response.text(request.text())
            case "/raise":
                raise {
                    "conflict": Conflict("no", code=7),
                    "invalid": Invalid("no"),
                    "not_found": NotFound("no"),
                    "overloaded": Overloaded("no", retry_after_s=3),
                    "unavailable": Unavailable("no", retry_after_s=1),
                    "bug": ValueError("a secret"),
                }[request.query["kind"][0]]
            case "/bad":
                return {
                    "status": lambda: Response(status=99),
                    "splitting": lambda: Response(headers=Headers.of({"x": "a\r\nset-cookie: b"})),
                    "name": lambda: Response(headers=Headers.of({"x y": "a"})),
                    "latin": lambda: Response(headers=Headers.of({"x": "…"})),
                    "type": lambda: {"not": "a response"},
                }[request.query["what"][0]]()  # type: ignore[return-value]
        return Response.json(
            {
                "name": self.ctx.id.name,
                "env": self.env,
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "many": request.headers.get_all("X-Many"),
                "first": request.headers.get("x-MANY", "none"),
                "size": len(request.body),
            }
        )


@pytest.fixture
def face(make_face: MakeFace) -> Face:
    return make_face(
        Limits(body_bytes_max=1000, inflight_bytes_max=1500), Application("app.py", (Echo,), env="its env")
    )


def test_fetch_gets_method_path_query_headers_and_body(face: Face) -> None:
    answer = face.request("PATCH", "/objects/Echo/a/b%20c/d?x=1&x=2&y=", b"12345", {"X-Many": "one"})
    assert answer.json == {
        "name": "a",
        "env": "its env",
        "method": "PATCH",
        "path": "/b c/d",
        "query": {"x": ["1", "2"], "y": [""]},
        "many": ["one"],
        "first": "one",
        "size": 5,
    }
    assert answer.headers["content-type"] == "application/json"
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a%2Fb", "a/b"),
        ("..", ".."),
        ("%2e%2e%2f%2e%2e", "../.."),
        ("%00", "\x00"),
        ("%E2%82%AC%20%F0%9F%8C%80", "€ 🌀"),
        ("a%252Fb", "a%2Fb"),
        ("+", "+"),
        ("x" * 1024, "x" * 1024),
    ],
)
def test_a_name_is_any_text_and_never_a_path(face: Face, written: str, name: str) -> None:
    before = {path.name for path in face.folder.iterdir()}
    answer = face.get(f"/objects/Echo/{written}/rest")
    assert (answer.json["name"], answer.json["path"]) == (name, "/rest")
    assert {path.name for path in face.folder.iterdir()} <= before | {"objects"}
    assert face.get(f"/objects/Echo/{written}").json["path"] == "/"


@pytest.mark.parametrize("written", ["%ff", "%C3%28", "%ED%A0%80", "x" * 1025])
def test_a_name_that_is_no_text_or_too_long_is_refused(face: Face, written: str) -> None:
    assert face.get(f"/objects/Echo/{written}/").ingest_error[0] == 400
    assert face.node.runtime.active == 0


@pytest.mark.parametrize("path", ["/objects", "/objects/", "/objects/Echo", "/objects/Echo/", "/objects/Echo//x"])
def test_a_path_without_an_object_leads_nowhere(face: Face, path: str) -> None:
    assert face.get(path).status == 404


def test_the_answers_status_headers_and_body_are_sent_and_what_is_the_servers_stays_so(face: Face) -> None:
    exchange = face.open("GET", "/objects/Echo/a/pairs")
    exchange.send(b"", more=False)
    start, body = (exchange.answer(), exchange._sent)[1]
    assert (start["status"], body["body"]) == (201, b"x")
    names = [name for name, _ in start["headers"]]
    assert [pair for pair in start["headers"] if pair[0] == b"x-many"] == [(b"x-many", b"1"), (b"x-many", b"2")]
    counts = [names.count(name) for name in (b"content-length", b"x-request-id", b"connection")]
    assert counts == [1, 1, 0]
    for status in (204, 304):
        answer = face.get(f"/objects/Echo/a/empty?status={status}")
        assert (answer.status, answer.body) == (status, b"")
        assert "content-length" not in answer.headers


def test_json_and_text_go_in_and_out_and_what_is_neither_is_the_clients_mistake(face: Face) -> None:
    answer = face.request("POST", "/objects/Echo/a/json", b'{"a": [1, "\xc3\xa9"]}')
    assert (answer.json, answer.headers["content-type"]) == ({"a": [1, "é"]}, "application/json")
    assert face.request("POST", "/objects/Echo/a/json", b"{").ingest_error[0] == 400
    assert face.request("POST", "/objects/Echo/a/text", "é".encode()).body == "é".encode()
    assert face.request("POST", "/objects/Echo/a/text", b"\xff").ingest_error[0] == 400


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("conflict", 409, 7),
        ("invalid", 400, 0),
        ("not_found", 404, 0),
        ("overloaded", 429, 0),
        ("unavailable", 503, 0),
    ],
)
def test_errors_that_fetch_raises_are_answered_by_their_kind(face: Face, kind: str, status: int, code: int) -> None:
    answer = face.get(f"/objects/Echo/a/raise?kind={kind}")
    assert answer.ingest_error == (status, code, "no")
    assert answer.headers.get("retry-after") == {"overloaded": "3", "unavailable": "1"}.get(kind)


def hidden(answer: Answer) -> bool:
    status, _, message = answer.ingest_error
    return status == 500 and message.startswith("Something went wrong; the server's log has the details")


def test_an_error_that_nobody_meant_is_500_without_its_text(face: Face) -> None:
    assert hidden(face.get("/objects/Echo/a/raise?kind=bug"))
    assert face.get("/objects/Echo/a").status == 200  # the object goes on


@pytest.mark.parametrize("what", ["status", "splitting", "name", "latin", "type"])
def test_an_answer_that_is_not_http_is_500_and_never_sent(face: Face, what: str) -> None:
    assert hidden(face.get(f"/objects/Echo/a/bad?what={what}"))


def test_a_body_over_the_limit_is_413_before_it_is_read_and_while(face: Face) -> None:
    assert face.request("POST", "/objects/Echo/a", b"x" * 1000).json["size"] == 1000
    exchange = face.open("POST", "/objects/Echo/a", {"content-length": "1001", "expect": "100-continue"})
    answer = exchange.answer()
    assert answer is not None and answer.status == 413 and answer.headers["connection"] == "close"
    exchange = face.open("POST", "/objects/Echo/a")
    exchange.send(b"x" * 600)
    exchange.send(b"x" * 600)
    exchange.send(b"x", more=False)
    answer = exchange.answer()
    assert answer is not None and answer.status == 413
    assert face.node.inflight.bytes == 0


def test_a_disk_filled_to_the_reserve_gets_507_until_there_is_room(make_face: MakeFace) -> None:
    face = make_face(Limits(disk_reserve_bytes=1_000), Application("app.py", (Echo,)))
    face.disk.room = 1_000
    face.wait(lambda: face.node.guard.free_bytes == 1_000)
    answer = face.request("POST", "/objects/Echo/a", b"x")
    assert answer.ingest_error[0] == 507 and answer.headers["retry-after"] == "5"
    face.disk.room = 1_001
    face.wait(lambda: face.node.guard.free_bytes == 1_001)
    assert face.request("POST", "/objects/Echo/a", b"x").status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_B2_a_disk_filled_to_the_reserve_lets_requests_through_that_read_or_delete(
    make_face: MakeFace, method: str
) -> None:
    face = make_face(Limits(disk_reserve_bytes=1_000), Application("app.py", (Echo,)))
    face.disk.room = 1_000
    face.wait(lambda: face.node.guard.free_bytes == 1_000)
    assert face.request("PUT", "/objects/Echo/a", b"x").status == 507
    assert face.request(method, "/objects/Echo/a").status == 200


def test_bodies_count_against_the_memory_of_all_requests(face: Face) -> None:
    first = face.open("POST", "/objects/Echo/a")
    first.send(b"x" * 900)
    assert face.node.inflight.bytes == 900
    answer = face.request("POST", "/objects/Echo/b", b"x" * 700)
    assert answer.ingest_error[0] == 429 and answer.headers["retry-after"] == "1"
    first.disconnect()
    assert first.answer() is None
    assert face.node.inflight.bytes == 0
    assert face.request("POST", "/objects/Echo/b", b"x" * 700).status == 200


def test_without_an_application_there_is_nothing_to_reach(make_face: MakeFace) -> None:
    face = make_face()
    answer = face.control("GET", "/objects/Echo/a")
    assert answer.ingest_error == (
        404,
        7003,
        "There is no class 'Echo'; known are none: the server was started without --app.",
    )


def test_requests_and_refusals_are_counted_by_reason(face: Face) -> None:
    for path in ("", "/raise?kind=conflict", "/raise?kind=bug", "/bad?what=name"):
        face.get(f"/objects/Echo/a{path}")
    face.get("/objects/Gone/a")
    gone = face.open("POST", "/objects/Echo/a")
    gone.disconnect()
    assert gone.answer() is None
    text = face.get("/metrics").body.decode()
    assert 'penstock_object_requests_total{executor="0"} 6.0' in text
    for reason, count in (
        ("conflict", 1),
        ("internal", 1),
        ("object_failed", 1),
        ("unauthenticated", 1),
        ("client_gone", 1),
    ):
        assert f'penstock_object_requests_refused_total{{executor="0",reason="{reason}"}} {count}.0' in text
