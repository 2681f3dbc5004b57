"""Where records are sent: to `/ingest/<id>`, or to `/` at the host `<id>.localhost`, as at Cloudflare."""

from __future__ import annotations

import pytest

from .harness import Face, as_lines

RECORDS = [{"a": 1}]


def test_both_addresses_lead_to_the_same_pipeline(face: Face) -> None:
    pipeline = face.create()
    hosts = [f"{pipeline}.localhost", f"{pipeline}.localhost:8787", f"{pipeline.upper()}.LOCALHOST:80"]
    for host in hosts:
        assert face.request("POST", "/", b'[{"a":1}]', {"host": host}).result == {"committed": 1}
    # The path is the stronger one.
    assert face.ingest(pipeline, RECORDS, {"host": f"{'f' * 32}.localhost"}).status == 200
    assert face.drain() == [b'{"a":1}'] * len(hosts) + as_lines(RECORDS)


@pytest.mark.parametrize("host", ["f" * 32 + ".localhost", "x.localhost:1", ".localhost", "a.b.localhost"])
def test_a_host_that_is_no_pipelines_gets_404_in_the_shape_of_the_ingest_endpoint(face: Face, host: str) -> None:
    status, code, _ = face.request("POST", "/", b"[{}]", {"host": host}).ingest_error
    assert (status, code) == (404, 1000)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8787", "[::1]:8787", "localhost.example", "", "x:y:z"])
def test_nothing_is_served_at_the_root_of_another_host(face: Face, host: str) -> None:
    assert face.request("POST", "/", b"[{}]", {"host": host}).control_error == (404, 7003, "There is no route /.")


def test_a_pipelines_host_serves_the_root_only(face: Face) -> None:
    host = {"host": f"{face.create()}.localhost"}
    assert face.get("/livez", host).status == 200
    assert face.request("POST", "/elsewhere", b"[{}]", host).control_error[:2] == (404, 7003)


@pytest.mark.parametrize("suffix", ["/", "/x", " ", "%00", "?"])
def test_what_follows_the_id_is_part_of_it(face: Face, suffix: str) -> None:
    answer = face.ingest(face.create() + suffix, RECORDS)
    assert answer.status == (200 if suffix == "?" else 404)


@pytest.mark.parametrize("source", [[{"type": "binding"}], [{"type": "binding"}, {"type": "http"}]])
def test_a_pipeline_takes_http_only_if_it_has_that_source(face: Face, source: list[object]) -> None:
    answer = face.ingest(face.create(source=source), RECORDS)
    if len(source) == 1:
        assert answer.ingest_error == (403, 0, "This pipeline has no 'http' source.")
    else:
        assert answer.status == 200
