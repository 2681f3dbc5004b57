"""Every answer carries the id that its log lines have."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import PIPELINES, TOKEN, Answer, Face

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def logged(face: Face, *request: Any) -> tuple[Answer, list[Any]]:
    """An answer, and the log lines of its request."""
    with capture_logs() as logs:
        answer = face.request(*request)
    return answer, [line for line in logs if line.get("request_id") == answer.headers["x-request-id"]]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", PIPELINES, 200),
        ("GET", f"{PIPELINES}/nobody", 404),
        ("POST", PIPELINES, 400),
        ("PATCH", PIPELINES, 405),
        ("GET", "/nowhere", 404),
        ("POST", f"/ingest/{'f' * 32}", 404),
        ("GET", f"/ingest/{'f' * 32}", 405),
    ],
)
def test_every_answer_carries_a_request_id_and_no_two_the_same(
    face: Face, method: str, path: str, status: int
) -> None:
    answers = [face.request(method, path, b"", AUTHORIZED) for _ in range(3)]
    assert [answer.status for answer in answers] == [status] * 3
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


def test_a_control_request_is_logged_with_what_became_of_it(face: Face) -> None:
    _, [line] = logged(face, "GET", PIPELINES, b"", AUTHORIZED)
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", "GET", PIPELINES, 200)
    assert line["duration_ms"] >= 0


@pytest.mark.parametrize(
    ("request_", "event", "reason"),
    [
        (("GET", PIPELINES), "request_refused", "unauthenticated"),
        (("GET", f"{PIPELINES}/nobody", b"", AUTHORIZED), "request_refused", "not_found"),
        (("GET", "/nowhere"), "request_refused", "no_route"),
        (("PATCH", PIPELINES), "request_refused", "no_route"),
        (("POST", f"/ingest/{'f' * 32}", b"[{}]"), "ingest_refused", "not_found"),
        (("GET", "/ingest/x"), "ingest_refused", "invalid"),
    ],
)
def test_i7_every_refusal_is_logged_with_its_reason(
    face: Face, request_: tuple[Any, ...], event: str, reason: str
) -> None:
    answer, [line, *_] = logged(face, *request_)
    assert (line["event"], line["reason"]) == (event, reason)
    assert line["error"] in answer.body.decode().replace('\\"', '"')


def test_an_accepted_ingest_request_is_counted_and_not_logged(face: Face) -> None:
    pipeline = face.create()
    assert logged(face, "POST", f"/ingest/{pipeline}", b"[{}]")[1] == []


def test_a_fault_of_the_server_is_answered_with_the_id_alone_and_logged_with_everything(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = face.create()

    def fail(*_: object) -> None:
        raise ZeroDivisionError("canary-7a2c")

    monkeypatch.setattr(face.node.ingest._broker, "send", fail)
    monkeypatch.setattr(face.node.runtime, "namespace", fail)
    for request in (("POST", f"/ingest/{pipeline}", b"[{}]"), ("GET", PIPELINES, b"", AUTHORIZED)):
        answer, lines = logged(face, *request)
        assert answer.status == 500
        assert b"canary" not in answer.body and b"request id" in answer.body
        [fault] = [line for line in lines if line["log_level"] == "error"]
        assert fault["exc_info"]
    assert face.node.ingest.statistics.refused == {"internal": 1}
    assert face.inflight_bytes == 0


def test_the_token_is_never_logged(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=10))
    with capture_logs() as logs:
        for method, path in (("GET", PIPELINES), ("GET", "/nowhere"), ("POST", "/ingest/x"), ("POST", PIPELINES)):
            for scheme in ("Bearer", "Basic"):
                face.request(method, path, b"x" * 100, {"authorization": f"{scheme} {TOKEN}"})
    assert len(logs) >= 8
    assert TOKEN not in repr(logs)
