"""`/client/v4/accounts/{account}/pipelines`, as specs/cloudflare.md 2.3.1 describes Cloudflare's."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import BUCKET, PIPELINES, Face, pipeline_body

CLICKS = f"{PIPELINES}/clicks"


def test_a_created_pipeline_is_described_with_its_defaults(face: Face) -> None:
    answer = face.control("POST", PIPELINES, {"name": "clicks", "destination": {"path": {"bucket": BUCKET}}})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    envelope = answer.json
    id = envelope["result"]["id"]
    assert re.fullmatch("[0-9a-f]{32}", id)
    assert envelope == {
        "success": True,
        "errors": [],
        "messages": [],
        "result": {
            "id": id,
            "name": "clicks",
            "version": 1,
            "endpoint": f"http://127.0.0.1:8787/ingest/{id}",
            "source": [
                {"type": "http", "format": "json", "authentication": False},
                {"type": "binding", "format": "json"},
            ],
            "transforms": [],
            "destination": {
                "type": "r2",
                "format": "json",
                "batch": {"max_bytes": 100_000_000, "max_duration_s": 300.0, "max_rows": 10_000_000},
                "compression": {"type": "gzip"},
                "path": {"bucket": BUCKET},
            },
        },
    }
    got = face.control("GET", CLICKS).result
    assert {key: got[key] for key in envelope["result"]} == envelope["result"]
    assert got["status"] == "running"
    assert got["backlog"] == {"records": 0, "bytes": 0, "oldest_at": None}
    assert [(shard["version"], shard["state"]) for shard in got["shards"]] == [(1, "open"), (1, "open")]


def test_what_is_set_is_what_is_described(face: Face) -> None:
    body = pipeline_body(
        "clicks",
        source=[{"type": "http", "format": "json", "authentication": True, "cors": {"origins": []}}],
        metadata={"shards": 15},
        batch={"max_bytes": 1, "max_duration_s": 0.25, "max_rows": 10},
        compression={"type": "none"},
        path={"bucket": BUCKET, "prefix": "/raw/"},
    )
    result = face.control("POST", PIPELINES, body).result
    assert result["source"] == body["source"]
    assert result["metadata"] == {"shards": 15}
    assert result["destination"] == body["destination"] | {"path": {"bucket": BUCKET, "prefix": "raw"}}


def test_g10_credentials_are_never_shown_and_never_stored_in_the_clear(
    face: Face, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "canary-5e1f"
    place = {"endpoint": "http://127.0.0.1:9", "region": "eu-1", "path_style": True}
    keys = place | {"access_key_id": "id", "secret_access_key": secret}
    answers = [face.control("POST", PIPELINES, pipeline_body(credentials=keys))]
    answers += [face.control("PUT", CLICKS, pipeline_body(credentials=keys))]
    answers += [face.control("GET", path) for path in (PIPELINES, CLICKS, f"{CLICKS}/deployments")]
    assert all(answer.status == 200 and secret.encode() not in answer.body for answer in answers)
    assert answers[3].result["destination"]["credentials"] == place
    wrong = face.control("PUT", CLICKS, pipeline_body(credentials=keys | {"region": "no such region"}))
    assert wrong.status == 400 and secret.encode() not in wrong.body
    assert not [path for path in face.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert secret not in "".join(capfd.readouterr())


def test_what_was_got_can_be_put(face: Face) -> None:
    face.create(batch={"max_rows": 7})
    described = face.control("GET", CLICKS).result
    answer = face.control("PUT", CLICKS, described).result
    assert answer.items() <= described.items(), "and it changes nothing: the version stays"


def test_the_endpoint_is_at_the_address_that_the_client_used(face: Face) -> None:
    id = face.create()
    headers = {"host": "events.example:9000", "authorization": "Bearer the-token"}
    assert face.get(CLICKS, headers).result["endpoint"] == f"http://events.example:9000/ingest/{id}"


def test_a_taken_name_gets_409_that_is_not_worth_a_retry(face: Face) -> None:
    face.create(batch={"max_rows": 7})
    answer = face.control("POST", PIPELINES, pipeline_body())
    assert answer.control_error == (409, 1003, "A pipeline named 'clicks' exists already.")
    assert answer.headers["x-should-retry"] == "false"
    assert face.control("GET", CLICKS).result["destination"]["batch"]["max_rows"] == 7


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_unknown_name_gets_404_with_code_1000(face: Face, method: str) -> None:
    answer = face.control(method, f"{PIPELINES}/nobody", pipeline_body("nobody"))
    assert answer.control_error == (404, 1000, "There is no pipeline named 'nobody'.")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("name", ["a b", "a.b", "..", "ä", "x" * 129, "a\x00"])
def test_a_name_that_cannot_be_one_is_refused_with_the_rule(face: Face, method: str, name: str) -> None:
    status, code, message = face.control(method, f"{PIPELINES}/{name}", pipeline_body()).control_error
    assert (status, code) == (400, 2)
    assert message == "name must be 1 to 128 characters of a-z, A-Z, 0-9 and '-'."


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"batch": {"max_bytes": 0}},
            ["destination.batch.max_bytes must be a whole number from 1 to 100,000,000."],
        ),
        (
            {"batch": {"max_bytes": 100_000_001}},
            ["destination.batch.max_bytes must be a whole number from 1 to 100,000,000."],
        ),
        (
            {"batch": {"max_duration_s": 0.2}},
            ["destination.batch.max_duration_s must be a number from 0.25 to 300."],
        ),
        (
            {"batch": {"max_duration_s": 301}},
            ["destination.batch.max_duration_s must be a number from 0.25 to 300."],
        ),
        (
            {"batch": {"max_rows": 10_000_001}},
            ["destination.batch.max_rows must be a whole number from 1 to 10,000,000."],
        ),
        (
            {"batch": {"max_rows": "many"}},
            ["destination.batch.max_rows must be a whole number from 1 to 10,000,000."],
        ),
        ({"metadata": {"shards": 16}}, ["metadata.shards must be a whole number from 1 to 15, or null."]),
        (
            {"compression": {"type": "lzma"}},
            ["destination.compression.type", "'gzip', 'zstd', 'deflate' or 'none'"],
        ),
        ({"path": {"bucket": "A"}}, ["destination.path.bucket", "3 to 63 characters"]),
        ({"path": {"bucket": BUCKET, "prefix": "../x"}}, ["destination.path.prefix", "512"]),
        ({"path": {"bucket": BUCKET, "prefix": "\ud800"}}, []),
        ({"path": {}}, ["destination.path.bucket is required."]),
        ({"type": "s3"}, ["destination.type must be 'r2'."]),
        ({"surprise": 1}, ["destination.surprise is not known; destination may have type, format, path"]),
        ({"source": []}, ["source", "each once"]),
        ({"transforms": [{}]}, ["transforms"]),
    ],
)
def test_wrong_settings_are_refused_with_field_and_limit(face: Face, settings: Any, words: list[str]) -> None:
    face.create("other")
    for method, path, name in (("POST", PIPELINES, "clicks"), ("PUT", f"{PIPELINES}/other", "other")):
        status, code, message = face.control(method, path, pipeline_body(name, **settings)).control_error
        assert (status, code) == (400, 1012)
        for word in words:
            assert word in message
    assert [p["name"] for p in face.control("GET", PIPELINES).result] == ["other"]
    assert face.control("GET", f"{PIPELINES}/other").result["version"] == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'{"name":"\\ud800"}'])
def test_a_body_that_holds_no_settings_is_refused(face: Face, body: bytes) -> None:
    answer = face.request("POST", PIPELINES, body, {"authorization": "Bearer the-token"})
    assert answer.control_error[:2] == (400, 1012)


def test_a_control_body_over_the_limit_gets_413(make_face: MakeFace) -> None:
    face = make_face(Limits(control_body_bytes_max=1_000))
    for method, path in (("POST", PIPELINES), ("PUT", CLICKS)):
        exchange = face.open(method, path, {"authorization": "Bearer the-token"})
        exchange.send(b" " * 600)
        exchange.send(b" " * 401)
        answer = exchange.answer()
        assert answer is not None
        assert answer.control_error == (413, 0, "The body is larger than control_body_bytes_max, 1000 bytes.")


def test_a_client_that_goes_away_while_it_describes_a_pipeline_makes_none(face: Face) -> None:
    exchange = face.open("POST", PIPELINES, {"authorization": "Bearer the-token"})
    exchange.send(json.dumps(pipeline_body()).encode())
    exchange.disconnect()
    with capture_logs() as logs:
        exchange.answer()
    assert [line["log_level"] for line in logs] == ["info", "info"]  # it is no fault of the server
    assert face.control("GET", PIPELINES).result == []


@pytest.mark.parametrize("path", ["/", "/client/v4", f"{PIPELINES}/clicks/runs", "/ingest", "/favicon.ico"])
def test_an_unknown_route_gets_404_with_code_7003(face: Face, path: str) -> None:
    assert face.control("GET", path).control_error == (404, 7003, f"There is no route {path}.")


def test_a_method_that_a_route_does_not_take_gets_405(face: Face) -> None:
    assert face.control("PATCH", CLICKS).control_error == (405, 7003, f"{CLICKS} does not take PATCH.")
    assert face.control("PATCH", CLICKS).headers["allow"] == "DELETE, GET, HEAD, PUT"
    assert face.control("POST", "/livez").control_error[:2] == (405, 7003)


# -- lists ------------------------------------------------------------------------------------------------


def names(face: Face, query: str) -> list[str]:
    return [pipeline["name"] for pipeline in face.control("GET", f"{PIPELINES}?{query}").result]


def test_a_list_comes_in_pages_in_the_order_of_names(face: Face) -> None:
    for name in ("c", "a", "b2", "b1", "B"):
        face.create(name)
    answer = face.control("GET", f"{PIPELINES}?page=2&per_page=2").json
    assert [pipeline["name"] for pipeline in answer["result"]] == ["b1", "b2"]
    assert answer["results"] == answer["result"]
    assert answer["result_info"] == {"page": 2, "per_page": 2, "count": 2, "total_count": 5}
    assert names(face, "page=3&per_page=2") == ["c"]
    assert names(face, "page=4&per_page=2") == []
    assert names(face, "") == ["B", "a", "b1", "b2", "c"]
    assert face.control("GET", PIPELINES).json["result_info"]["per_page"] == 20


def test_a_list_can_be_searched_by_the_start_of_the_name(face: Face) -> None:
    for name in ("clicks", "clicks-2", "Clicks", "click", "views"):
        face.create(name)
    assert names(face, "search=clicks") == ["clicks", "clicks-2"]
    assert names(face, "search=clicks&per_page=1&page=2") == ["clicks-2"]
    assert face.control("GET", f"{PIPELINES}?search=clicks&per_page=1").json["result_info"]["total_count"] == 2
    for nothing in ("%25", "_licks", "licks", "%00", "%FF", "'"):
        assert names(face, f"search={nothing}") == []


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "%C2%B2", "9" * 5_000, "0" * 19 + "1" + "9" * 19])
def test_paging_beyond_its_bounds_is_refused_with_the_bound(face: Face, value: str) -> None:
    for field, most in (("page", 1_000_000), ("per_page", 100)):
        answer = face.control("GET", f"{PIPELINES}?{field}={value}")
        assert answer.control_error == (400, 1012, f"{field} must be a whole number from 1 to {most}.")
    assert face.control("GET", f"{PIPELINES}?per_page=101").status == 400


# -- changes ----------------------------------------------------------------------------------------------


def test_e4_a_record_goes_where_the_settings_say_that_it_came_under(face: Face) -> None:
    pipeline = face.create(path={"bucket": BUCKET, "prefix": "old"})
    face.ingest(pipeline, [{"n": 1}])
    changed = pipeline_body(
        path={"bucket": "other-bucket", "prefix": "new"}, compression={"type": "none"}, batch={"max_rows": 1}
    )
    result = face.control("PUT", CLICKS, changed).result
    assert (result["id"], result["version"]) == (pipeline, 2)
    assert result["destination"]["path"] == {"bucket": "other-bucket", "prefix": "new"}
    face.ingest(pipeline, [{"n": 2}])
    face.wait_delivered()
    [before] = face.files()
    assert gzip.decompress(before.read_bytes()) == b'{"n": 1}\n'
    [after] = face.files("other-bucket")
    assert after.read_bytes() == b'{"n": 2}\n'
    key = after.relative_to(face.folder / "buckets" / "other-bucket")
    assert re.fullmatch(r"new/event_date=\d{4}-\d\d-\d\d/hr=\d\d/[0-9A-Z]{26}\.json", str(key))


def test_e4_deployments_show_the_old_generation_drain(face: Face) -> None:
    pipeline = face.create(path={"bucket": BUCKET})
    face.ingest(pipeline, [{"n": 1}])
    face.control("PUT", CLICKS, pipeline_body(batch={"max_rows": 1}))
    face.wait_delivered()
    face.wait(lambda: face.control("GET", f"{CLICKS}/deployments").result[1]["state"] == "drained")
    newest, oldest = face.control("GET", f"{CLICKS}/deployments").result
    assert (newest["version"], newest["state"], newest["drained_at"]) == (2, "active", None)
    assert oldest["version"] == 1 and oldest["drained_at"] >= oldest["created_at"]
    assert newest["destination"]["batch"]["max_rows"] == 1
    shards = face.control("GET", f"{CLICKS}/shards").result
    assert {shard["version"] for shard in shards} == {2}


def test_files_written_before_a_change_stay_as_they_are(face: Face) -> None:
    pipeline = face.create(batch={"max_rows": 1})
    face.ingest(pipeline, [{"n": 1}])
    face.wait_delivered()
    [before] = face.files()
    content = before.read_bytes()
    face.control("PUT", CLICKS, pipeline_body(path={"bucket": "other-bucket"}))
    face.ingest(pipeline, [{"n": 2}])
    face.drain()
    assert face.files() == [before] and before.read_bytes() == content
    assert gzip.decompress(content) == b'{"n": 1}\n'
    assert face.lines("other-bucket") == [b'{"n": 2}']


def test_a_change_of_shards_loses_and_doubles_nothing(face: Face) -> None:
    pipeline = face.create()
    sent = []
    for shards in (3, 1, 15, 2):
        face.control("PUT", CLICKS, pipeline_body(metadata={"shards": shards}))
        for _ in range(10):
            sent.append({"n": len(sent)})
            assert face.ingest(pipeline, [sent[-1]]).status == 200
    assert sorted(json.loads(line)["n"] for line in face.drain()) == list(range(len(sent)))


def test_a_name_cannot_be_changed(face: Face) -> None:
    face.create()
    answer = face.control("PUT", CLICKS, pipeline_body("views"))
    assert answer.control_error == (400, 2, "name cannot be changed; delete the pipeline and create another.")
    assert names(face, "") == ["clicks"]


def test_a_deleted_pipeline_delivers_what_it_holds_and_is_gone(face: Face) -> None:
    pipeline = face.create(metadata={"shards": 3})
    for n in range(9):
        face.ingest(pipeline, [{"n": n}])
    answer = face.control("DELETE", CLICKS)
    assert answer.json == {"success": True, "errors": [], "messages": [], "result": None}
    # Gone for everybody at once, also for the broker that had its plan.
    assert face.ingest(pipeline, [{"late": True}]).ingest_error[:2] == (404, 1000)
    for method in ("GET", "PUT", "DELETE"):
        assert face.control(method, CLICKS, pipeline_body()).control_error[:2] == (404, 1000)
    assert names(face, "") == []
    face.wait_delivered()
    assert sorted(face.lines()) == [b'{"n": %d}' % n for n in range(9)]


def test_the_name_of_a_deleted_pipeline_is_free_for_another(face: Face) -> None:
    first = face.create()
    face.ingest(first, [{"n": 1}])
    face.control("DELETE", CLICKS)
    second = face.create()
    assert second != first
    assert face.ingest(first, [{"late": True}]).status == 404
    face.ingest(second, [{"n": 2}])
    assert sorted(face.drain()) == [b'{"n": 1}', b'{"n": 2}']
