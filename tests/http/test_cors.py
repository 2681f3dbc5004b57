"""Cross-origin requests to a pipeline's endpoint: what a page of another origin may send and see."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import PIPELINES, TOKEN, Answer, Face, Headers, pipeline_body

SHOP = "https://shop.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


def source(*origins: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "http", "cors": {"origins": list(origins)}, **more}]


def preflight(face: Face, pipeline: str, origin: str, headers: Headers | None = None) -> Answer:
    return face.request("OPTIONS", f"/ingest/{pipeline}", b"", {"origin": origin, **PREFLIGHT, **(headers or {})})


def visible(answer: Answer) -> str | None:
    return answer.headers.get("access-control-allow-origin")


@pytest.mark.parametrize("origins", [[SHOP], ["http://localhost:3000", SHOP], ["*"]])
def test_a_preflight_of_a_listed_origin_says_what_a_page_may_send(face: Face, origins: list[str]) -> None:
    answer = preflight(face, face.create(source=source(*origins)), SHOP)
    assert (answer.status, answer.body) == (204, b"")
    request_id = answer.headers.pop("x-request-id")
    assert request_id
    assert answer.headers == {
        "access-control-allow-origin": SHOP,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type, content-encoding, authorization, idempotency-key",
        "access-control-max-age": "86400",
        "vary": "Origin",
    }


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example",
        "http://shop.example",
        f"{SHOP}:8443",
        f"{SHOP}.evil.example",
        "null",
        "",
        "*",
        "\xff",
    ],
)
def test_a_preflight_of_another_origin_is_refused_and_its_answers_stay_hidden(face: Face, origin: str) -> None:
    pipeline = face.create(source=source(SHOP))
    refused = preflight(face, pipeline, origin)
    assert refused.ingest_error[0] == 403
    assert not [name for name in refused.headers if name.startswith("access-control-")]
    # This is about what a page sees, not about who may send.
    answer = face.ingest(pipeline, [{}], {"origin": origin})
    assert answer.status == 200 and visible(answer) is None


def test_without_origins_in_the_settings_no_page_is_let_in(face: Face) -> None:
    for pipeline in (face.create("a"), face.create("b", source=source())):
        assert preflight(face, pipeline, SHOP).status == 403
        assert visible(face.ingest(pipeline, [{}], {"origin": SHOP})) is None


def test_a_preflight_needs_no_token(face: Face) -> None:
    pipeline = face.create(source=source(SHOP, authentication=True))
    assert preflight(face, pipeline, SHOP).status == 204


def test_options_that_are_no_preflight_get_405(face: Face) -> None:
    pipeline = face.create(source=source(SHOP))
    for headers in ({}, {"origin": SHOP}, PREFLIGHT):
        assert face.request("OPTIONS", f"/ingest/{pipeline}", b"", headers).status == 405


def test_answers_are_visible_to_a_listed_origin_errors_included(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=100, undelivered_bytes_max=50))
    pipeline = face.create(source=source(SHOP))
    locked = face.create("locked", source=source(SHOP, authentication=True))
    origin = {"origin": SHOP}
    answers = [
        face.ingest(pipeline, [{"n": 1}], origin),
        face.ingest(pipeline, b"nonsense", origin),
        face.request("PUT", f"/ingest/{pipeline}", b"", origin),
        face.ingest(pipeline, b" " * 101, origin),
        face.ingest(pipeline, [{"text": "x" * 60}], origin),
        face.ingest(pipeline, [{}], {**origin, "content-encoding": "br"}),
        face.ingest(locked, [{}], origin),
    ]
    assert [answer.status for answer in answers] == [200, 400, 405, 413, 429, 415, 401]
    for answer in answers:
        assert visible(answer) == SHOP, answer
        assert answer.headers["access-control-expose-headers"] == "retry-after, x-request-id"
        assert answer.headers["vary"] == "Origin"
    assert answers[4].headers["retry-after"]


def test_an_unknown_pipeline_shows_nothing_to_a_page(face: Face) -> None:
    assert visible(face.ingest("f" * 32, [{}], {"origin": SHOP})) is None
    assert preflight(face, "f" * 32, SHOP).status == 404


def test_origins_can_be_changed_at_any_time(face: Face) -> None:
    pipeline = face.create(source=source("https://old.example"))
    assert preflight(face, pipeline, SHOP).status == 403
    body = pipeline_body(source=source(SHOP))
    assert face.control("PUT", f"{PIPELINES}/clicks", body).status == 200
    face.wait(lambda: preflight(face, pipeline, SHOP).status == 204)


def test_origins_are_kept_as_browsers_send_them(face: Face) -> None:
    written = ["HTTPS://Shop.Example:443", "http://a.example:80", "http://[::1]:3000", "capacitor://localhost", "*"]
    kept = ["https://shop.example", "http://a.example", "http://[::1]:3000", "capacitor://localhost", "*"]
    pipeline = face.create(source=source(*written))
    described = face.control("GET", f"{PIPELINES}/clicks").result
    assert described["id"] == pipeline
    assert described["source"][0]["cors"] == {"origins": kept}
    assert face.control("PUT", f"{PIPELINES}/clicks", described).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("shop.example", "https://", "https://shop.example/", "https://shop.example/path", "https://*.example"),
        *("https://shop.example:0x50", "https://shop.example:99999", "https://user@shop.example", "null", ""),
        *("https://shop.example ", "https://shöp.example", "https://shop.example\r\nx: y", "x://" + "a" * 300),
    ],
)
def test_what_is_no_origin_is_refused_naming_which(face: Face, origin: str) -> None:
    body = pipeline_body(source=source(SHOP, origin))
    status, code, message = face.control("POST", PIPELINES, body).control_error
    assert (status, code) == (400, 1012)
    assert message.startswith(f"source.cors.origins[1] is {origin[:100]!r}; it must be an origin like ")


def test_a_hundred_origins_are_taken_and_no_more(face: Face) -> None:
    origins = [f"https://{n}.example" for n in range(101)]
    assert face.control("POST", PIPELINES, pipeline_body("few", source=source(*origins[:100]))).status == 200
    answer = face.control("POST", PIPELINES, pipeline_body("many", source=source(*origins)))
    assert answer.control_error == (400, 1012, "source.cors.origins must be at most 100.")


def test_a_page_sends_with_the_token(face: Face) -> None:
    pipeline = face.create(source=source(SHOP, authentication=True))
    answer = face.ingest(pipeline, [{}], {"origin": SHOP, "authorization": f"Bearer {TOKEN}"})
    assert answer.status == 200 and visible(answer) == SHOP
