"""After known traffic the numbers are exactly these."""

from __future__ import annotations

import errno
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.base.limits import Limits
from penstock.http.metrics import Family, render

from .conftest import MakeFace
from .harness import PIPELINES, Face, pipeline_body

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(face: Face) -> str:
    answer = face.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def value(text: str, name: str, **labels: str) -> float | None:
    """The value of one sample of executor 0, None if there is none."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels | {"executor": "0"}:
                return sample.value
    return None


def test_records_requests_and_bytes_are_counted_exactly(face: Face) -> None:
    pipeline = face.create()
    bodies = [b'[{"n":1}]', b'[{"n":2}, {"n":3}]', b"[{}]"]
    for body in bodies:
        face.ingest(pipeline, body)
    for body in (b"[", b"{", b"[]"):
        face.ingest(pipeline, body)
    face.ingest("f" * 32, b"[{}]")
    text = scrape(face)
    assert value(text, "penstock_ingest_requests_total") == 7
    assert value(text, "penstock_ingest_records_total") == 4
    assert value(text, "penstock_ingest_bytes_total") == sum(map(len, bodies))
    assert value(text, "penstock_ingest_inflight_bytes") == 0
    stored = b'{"n":1}\n{"n":2}\n{"n":3}\n{}\n'
    assert value(text, "penstock_undelivered_bytes") == len(stored)
    assert value(text, "penstock_files_delivered_total") == 0

    face.drain()
    text = scrape(face)
    [file] = face.files()
    assert value(text, "penstock_undelivered_bytes") == 0
    assert value(text, "penstock_files_delivered_total") == 1
    assert value(text, "penstock_files_delivered_bytes_total") == file.stat().st_size
    assert value(text, "penstock_records_delivered_total") == 4
    assert value(text, "penstock_delivery_failures_total") == 0
    assert value(text, "penstock_executor_up") == 1


def test_i7_refusals_are_counted_by_reason(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=200, undelivered_bytes_max=100, disk_reserve_bytes=1_000))
    open_, closed = face.create("open"), face.create("closed", source=[{"type": "http", "authentication": True}])
    binding = face.create("binding", source=[{"type": "binding"}])
    record = b'[{"a":"' + b"x" * 60 + b'"}]'
    assert face.ingest(open_, record).status == 200
    expected = {"invalid": 3, "not_found": 1, "too_large": 1, "overloaded": 2, "unauthenticated": 1, "forbidden": 1}
    for body in (b"[", b"{", b"[" * 201, record, record):
        face.ingest(open_, body)
    face.get(f"/ingest/{open_}")
    face.ingest("f" * 32, record)
    face.ingest(closed, record)
    face.ingest(binding, record)
    gone = face.open("POST", f"/ingest/{open_}")
    gone.disconnect()
    gone.answer()
    face.disk.room = 0
    face.wait(lambda: face.node.guard.free_bytes == 0)
    face.ingest(open_, record)
    text = scrape(face)
    for reason, count in (expected | {"client_gone": 1, "storage_full": 1}).items():
        assert value(text, "penstock_ingest_refused_total", reason=reason) == count, reason
    assert text.count("penstock_ingest_refused_total{") == len(expected) + 2
    assert value(text, "penstock_ingest_requests_total") == 1 + sum(expected.values()) + 2
    assert value(text, "penstock_ingest_records_total") == 1


def test_a_file_that_cannot_be_delivered_is_counted(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(face.disk, "write", fail)
        face.ingest(face.create(batch={"max_rows": 1}), [{"n": 1}])
        face.wait(lambda: face.node.statistics.delivery_failures == 1)
    assert value(scrape(face), "penstock_delivery_failures_total") == 1
    face.wait_delivered()
    assert face.lines() == [b'{"n": 1}']
    assert value(scrape(face), "penstock_files_delivered_total") == 1


def test_every_metric_says_what_it_is_and_which_executors(face: Face) -> None:
    face.ingest("f" * 32, b"[{}]")  # so that each family has a sample
    face.get("/objects/Nothing/a")
    face.ingest(face.create(partition_time={"field": "at"}, batch={"max_rows": 1}), [{}])
    face.wait_delivered()
    lines = scrape(face).splitlines()
    helped = [line.split()[2] for line in lines if line.startswith("# HELP ") and len(line.split()) > 3]
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    sampled = {re.split("[{ ]", line)[0] for line in lines if not line.startswith("#")}
    assert helped == typed
    assert set(typed) == sampled
    assert len(typed) == len(set(typed)) >= 25
    assert all(name.startswith("penstock_") for name in sampled)
    assert all('executor="0"' in line for line in lines if not line.startswith("#"))


def test_a_name_in_a_metric_is_nobodys(face: Face) -> None:
    pipeline = face.create("canary")
    face.ingest(pipeline, [{"canary": 1}])
    face.control("PUT", f"{PIPELINES}/canary", pipeline_body("canary", path={"bucket": "canary"}))
    text = scrape(face)
    assert "canary" not in text and pipeline not in text


def test_an_executor_that_does_not_answer_shows_as_down_and_the_others_as_they_are() -> None:
    family = Family("penstock_x", "counter", "X.", [({"reason": "a"}, 3.0)])
    text = render({0: [family], 1: None, 2: [family]}).decode()
    assert 'penstock_executor_up{executor="0"} 1.0' in text
    assert 'penstock_executor_up{executor="1"} 0.0' in text
    assert text.count("# HELP penstock_x_total X.") == 1
    for executor in "02":
        assert f'penstock_x_total{{executor="{executor}",reason="a"}} 3.0' in text


def test_readiness_is_told_apart_from_life(face: Face) -> None:
    assert (face.get("/livez").body, face.get("/readyz").body) == (b"ok\n", b"ok\n")
    face.node.drain()
    answer = face.get("/readyz")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert face.get("/livez").status == 200
    assert face.ingest(face.create(), [{"a": 1}]).status == 200  # what still comes is still taken
