"""What a pipeline's usage says after known traffic."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from penstock.base.limits import Limits
from penstock.pipelines import counters
from penstock.pipelines.counters import OTHER, CountersByPipeline

from .conftest import MakeFace
from .harness import PIPELINES, TOKEN, Face, pipeline_body
from .test_metrics import value

PARTITIONED = {"partition_time": {"field": "at"}}


def usage(face: Face, name: str = "clicks") -> Any:
    return face.control("GET", f"{PIPELINES}/{name}/usage").result


def scrape(face: Face) -> str:
    return face.get("/metrics", {"authorization": f"Bearer {TOKEN}"}).body.decode()


def test_requests_records_bytes_and_the_backlog_are_exact(face: Face) -> None:
    pipeline = face.create()
    before_ms = face.now_ms()
    for body in (b'[{"n":1}]', b'[{"n":2}, {"n":3}]'):
        face.ingest(pipeline, body)
    found = usage(face)
    stored = len(b'{"n":1}\n{"n":2}\n{"n":3}\n')
    assert (found["id"], found["name"]) == (pipeline, "clicks")
    assert found["in"] == {"requests": 2, "records": 3, "bytes": stored}
    assert found["out"] == {"files": 0, "bytes": 0, "records": 0, "dead_records": 0, "dead_reasons": {}}
    assert (found["backlog"]["records"], found["backlog"]["bytes"]) == (3, stored)
    assert 0 <= found["backlog"]["lag_ms"] <= face.now_ms() - before_ms
    assert found["missing"] == {"shards": [], "executors": []}


def test_files_of_all_generations_are_in_it_also_when_their_shards_are_drained(face: Face) -> None:
    pipeline = face.create()
    face.ingest(pipeline, [{"n": 1}, {"n": 2}])
    for compression in ("none", "zstd"):
        face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(compression={"type": compression}))
        face.wait(lambda: usage(face)["backlog"]["records"] == 0)
        face.ingest(pipeline, [{"n": 3}])
    for _ in range(2):  # the second time what is drained is not asked any more
        found = usage(face)
        assert found["in"]["requests"] == 3 and found["in"]["records"] == 4
        assert found["out"]["files"] == 2 and found["out"]["records"] == 3
        assert found["out"]["bytes"] == sum(path.stat().st_size for path in face.files())
        assert found["backlog"]["records"] == 1


def test_usage_is_there_again_after_a_restart_and_what_was_refused_counts_from_it(
    make_face: MakeFace, tmp_path: Any
) -> None:
    with Face(tmp_path, Limits()) as face:
        pipeline = face.create()
        face.ingest(pipeline, [{"n": 1}])
        face.ingest(pipeline, b"[")
        assert usage(face)["since_start"]["refused"] == {"invalid": 1}
    face = make_face()
    found = usage(face)
    assert found["in"]["records"] == 1 and found["backlog"]["records"] == 1
    assert found["since_start"] == {"refused": {}, "delivery_failures": 0}
    assert value(scrape(face), "penstock_pipeline_backlog_bytes", pipeline="clicks") == len(b'{"n": 1}\n')


def test_i7_what_was_refused_is_told_by_pipeline_and_reason(face: Face) -> None:
    first, second = face.create("first"), face.create("second", source=[{"type": "http", "authentication": True}])
    face.ingest(first, b"[")
    face.ingest(first, b"x")
    face.ingest(second, [{}])
    face.ingest("f" * 32, [{}])
    assert usage(face, "first")["since_start"]["refused"] == {"invalid": 2}
    assert usage(face, "second")["since_start"]["refused"] == {"unauthenticated": 1}
    text = scrape(face)
    assert value(text, "penstock_pipeline_refused_total", pipeline="first", reason="invalid") == 2
    assert value(text, "penstock_pipeline_requests_total", pipeline="second") == 1
    assert value(text, "penstock_pipeline_records_total", pipeline="second") == 0


def test_dead_records_are_told_by_reason(face: Face) -> None:
    pipeline = face.create(batch={"max_rows": 2}, **PARTITIONED)
    face.ingest(pipeline, [{"at": "2026-01-01T00:00:00Z"}, {"n": 1}])
    face.wait(lambda: usage(face)["backlog"]["records"] == 0)
    found = usage(face)
    assert (found["out"]["records"], found["out"]["dead_records"], found["out"]["files"]) == (1, 1, 2)
    assert found["out"]["dead_reasons"] == {"partition_time": 1}
    text = scrape(face)
    assert value(text, "penstock_records_dead_total", reason="partition_time") == 1
    assert value(text, "penstock_pipeline_records_dead_total", pipeline="clicks", reason="partition_time") == 1
    assert value(text, "penstock_pipeline_files_total", pipeline="clicks") == 2
    face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(batch={"max_rows": 1}, **PARTITIONED))
    face.ingest(pipeline, [{"at": "no time"}])
    face.wait(lambda: usage(face)["out"]["files"] == 3)
    for _ in range(2):  # the second time what is drained is not asked any more
        assert usage(face)["out"]["dead_reasons"] == {"partition_time": 2}


def test_a_bucket_that_fails_shows_as_failures_and_lag(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(face.disk, "write", fail)
        face.ingest(face.create(batch={"max_rows": 1}), [{"n": 1}])
        face.wait(lambda: usage(face)["since_start"]["delivery_failures"] == 1)
        lag = value(scrape(face), "penstock_pipeline_lag_seconds", pipeline="clicks")
        assert lag is not None and lag > 0
        assert usage(face)["backlog"]["lag_ms"] > 0
    face.wait_delivered()
    assert usage(face)["backlog"]["lag_ms"] == 0
    text = scrape(face)
    assert value(text, "penstock_pipeline_lag_seconds", pipeline="clicks") == 0
    assert value(text, "penstock_pipeline_delivery_failures_total", pipeline="clicks") == 1


def test_shards_are_counted_by_state(face: Face) -> None:
    face.create()
    assert value(scrape(face), "penstock_shards", state="open") == 1
    face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(compression={"type": "none"}))
    face.wait(lambda: value(scrape(face), "penstock_shards", state="drained") == 1)
    assert value(scrape(face), "penstock_shards", state="open") == 1
    face.control("DELETE", f"{PIPELINES}/clicks")
    face.wait(lambda: value(scrape(face), "penstock_shards", state="drained") == 0)
    assert value(scrape(face), "penstock_pipeline_requests_total", pipeline="clicks") is None


def test_G7_numbers_by_pipeline_are_for_those_with_a_token(face: Face) -> None:
    face.ingest(face.create(), [{"n": 1}])
    assert "clicks" in scrape(face)
    assert "clicks" not in face.get("/metrics").body.decode()
    assert face.get("/metrics", {"authorization": "Bearer wrong"}).status == 401


def test_usage_of_a_pipeline_that_is_not_there_says_so(face: Face) -> None:
    assert face.control("GET", f"{PIPELINES}/nothing/usage").control_error[:2] == (404, 1000)


def test_i6_what_is_one_pipeline_too_many_is_counted_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "PIPELINES_COUNTED_MAX", 2)
    all_ = CountersByPipeline()
    for number in range(5):
        all_.of(str(number), f"p{number}").requests += 1
    assert {name: found.requests for name, found in all_.by_name().items()} == {"p0": 1, "p1": 1, OTHER: 3}
    all_.forget("0")
    all_.of("9", "p9").requests += 1
    assert {name: found.requests for name, found in all_.by_name().items()} == {"p1": 1, "p9": 1, OTHER: 3}
