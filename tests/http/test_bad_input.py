"""Each way to send what cannot be taken: its status, its code, a text that names the field and the limit. And
what was taken before is not touched by any of it."""

from __future__ import annotations

import pytest

from penstock.base.limits import Limits

from .conftest import MakeFace
from .harness import PIPELINES, Face, as_lines

EARLIER = [{"n": 1}, {"n": 2}]


TAKEN = "a JSON array of objects, one object, or one object on each line"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", f"The body is empty. Send {TAKEN}."),
        (b"hello", f"The body is not JSON (invalid character (byte 0)). Send {TAKEN}."),
        (b'[{"a":1}', f"The body is not JSON (input data was truncated). Send {TAKEN}."),
        (b'[{"a":1}] []', f"The body is not JSON (trailing characters (byte 11)). Send {TAKEN}."),
        (b'[{"a":"\xff"}]', f"The body is not UTF-8: byte 7 is wrong. Send {TAKEN} in UTF-8."),
        (b'{"a":1}\n{"a":2,}', f"Line 2 is not JSON (trailing comma in object (byte 7)). Send {TAKEN}."),
    ],
)
def test_a_body_that_is_not_json_gets_400_with_code_1003(face: Face, body: bytes, message: str) -> None:
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    assert face.ingest(pipeline, body).ingest_error == (400, 1003, message)
    assert face.drain() == as_lines(EARLIER)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":1}\n2\n', "Line 2 is a number: each must be a JSON object."),
        (b"null", f"The body must be {TAKEN} (expected array, got null)."),
        (b'"[]"', f"The body must be {TAKEN} (expected array, got str)."),
        (b"[]", "The array is empty: send at least one record."),
        (b" [ ] ", "The array is empty: send at least one record."),
        (b"[1]", "Record 0 is a number: each must be a JSON object."),
        (b"[null]", "Record 0 is null: each must be a JSON object."),
        (b"[[{}]]", "Record 0 is an array: each must be a JSON object."),
        (b'[{"a":[[{}]]},{},"{}"]', "Record 2 is a string: each must be a JSON object."),
    ],
)
def test_json_that_is_not_objects_gets_400_with_code_1002(face: Face, body: bytes, message: str) -> None:
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    assert face.ingest(pipeline, body).ingest_error == (400, 1002, message)
    assert face.drain() == as_lines(EARLIER)


@pytest.mark.parametrize("pipeline", ["f" * 32, "nonsense", "", "../../etc/passwd", "x" * 10_000])
def test_an_unknown_pipeline_gets_404_with_code_1000_and_brings_no_object_to_life(
    face: Face, pipeline: str
) -> None:
    before = face.node.runtime.active
    status, code, message = face.ingest(pipeline, EARLIER).ingest_error
    assert (status, code) == (404, 1000)
    assert message == f"There is no pipeline with ID {pipeline[:64]!r}; 'penstock pipelines list' shows all IDs."
    assert face.node.runtime.active <= before + 1  # the registry


def test_records_are_sent_with_post(face: Face) -> None:
    pipeline = face.create()
    for method in ("GET", "PUT", "DELETE"):
        answer = face.request(method, f"/ingest/{pipeline}")
        assert answer.ingest_error == (405, 0, "Records are sent with POST.")
        assert answer.headers["allow"] == "POST"


# -- body_bytes_max ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks_first", [True, False])
def test_a_body_announced_as_too_large_gets_413_without_being_kept(make_face: MakeFace, asks_first: bool) -> None:
    face = make_face(Limits(body_bytes_max=100))
    face.ingest(face.create(), EARLIER)
    headers = {"content-length": "101"} | ({"expect": "100-continue"} if asks_first else {})
    exchange = face.open("POST", f"/ingest/{'f' * 32}", headers)
    if not asks_first:  # such a client reads the answer only when it has sent everything
        exchange.send(b" " * 50)
        assert face.inflight_bytes == 0
        exchange.send(b" " * 51, more=False)
    answer = exchange.answer()
    assert answer is not None
    assert answer.ingest_error == (
        413,
        0,
        "The body is larger than body_bytes_max, 100 bytes (at least 101 were sent). Send fewer records at once.",
    )
    assert answer.headers["connection"] == "close"
    assert face.drain() == as_lines(EARLIER)


@pytest.mark.parametrize("sizes", [[101], [60, 60], [50, 50, 1]])
def test_a_body_that_grows_too_large_gets_413(make_face: MakeFace, sizes: list[int]) -> None:
    face = make_face(Limits(body_bytes_max=100))
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    exchange = face.open("POST", f"/ingest/{pipeline}", {"transfer-encoding": "chunked"})
    for number, size in enumerate(sizes, 1):
        exchange.send(b" " * size, more=number < len(sizes))
    answer = exchange.answer()
    assert answer is not None
    status, code, message = answer.ingest_error
    assert (status, code) == (413, 0)
    assert "body_bytes_max, 100 bytes" in message
    assert face.inflight_bytes == 0
    assert face.drain() == as_lines(EARLIER)


def test_a_body_that_lies_about_its_length_is_held_to_the_limit_all_the_same(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=100))
    exchange = face.open("POST", f"/ingest/{face.create()}", {"content-length": "2"})
    exchange.send(b" " * 101)
    exchange.send(b"", more=False)
    answer = exchange.answer()
    assert answer is not None and answer.status == 413


def test_a_body_of_exactly_the_limit_is_taken_whole_or_in_pieces(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=100))
    pipeline = face.create()
    body = b'[{"a":"' + b"x" * (100 - 10) + b'"}]'
    assert face.ingest(pipeline, body).result == {"committed": 1}
    exchange = face.open("POST", f"/ingest/{pipeline}")
    for start in range(0, 100, 7):
        exchange.send(body[start : start + 7], more=start + 7 < 100)
    answer = exchange.answer()
    assert answer is not None and answer.result == {"committed": 1}
    assert face.drain() == [body[1:-1]] * 2


# -- inflight_bytes_max: bodies in memory, per executor ---------------------------------------------------


def test_too_many_bytes_in_memory_get_429_until_they_are_written(make_face: MakeFace) -> None:
    face = make_face(Limits(inflight_bytes_max=100))
    pipeline = face.create()
    slow = face.open("POST", f"/ingest/{pipeline}")
    slow.send(b'[{"a":1}' + b" " * 72)
    assert face.inflight_bytes == 80
    answer = face.ingest(pipeline, [{"refused": True}] * 2)
    assert answer.ingest_error == (
        429,
        0,
        "Too many request bytes await being written (inflight_bytes_max is 100, of which each "
        "pipeline may have its share). Nothing of this request was "
        "stored; send it again later.",
    )
    assert answer.headers["retry-after"] == "1"
    assert face.inflight_bytes == 80
    slow.send(b"]", more=False)
    accepted = slow.answer()
    assert accepted is not None and accepted.result == {"committed": 1}
    assert face.inflight_bytes == 0
    assert face.ingest(pipeline, [{"b": 2}]).status == 200
    assert face.drain() == [b'{"a":1}', *as_lines([{"b": 2}])]


@pytest.mark.parametrize("sizes", [[101], [60, 60]])
def test_a_refused_body_gives_its_share_of_the_memory_back(make_face: MakeFace, sizes: list[int]) -> None:
    face = make_face(Limits(inflight_bytes_max=100))
    pipeline = face.create()
    exchange = face.open("POST", f"/ingest/{pipeline}")
    for number, size in enumerate(sizes, 1):
        exchange.send(b" " * size, more=number < len(sizes))
    answer = exchange.answer()
    assert answer is not None and answer.status == 429
    assert face.inflight_bytes == 0
    assert face.ingest(pipeline, EARLIER).status == 200
    assert face.drain() == as_lines(EARLIER)


@pytest.mark.parametrize("pieces", [[], [b'[{"a":1}'], [b'[{"a":1}', b',{"a":2}']])
def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind(face: Face, pieces: list[bytes]) -> None:
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    exchange = face.open("POST", f"/ingest/{pipeline}", {"content-length": "100"})
    for piece in pieces:
        exchange.send(piece)
    assert face.inflight_bytes == sum(map(len, pieces))
    exchange.disconnect()
    assert exchange.answer() is None
    assert face.inflight_bytes == 0
    assert face.node.ingest.statistics.refused == {"client_gone": 1}
    assert face.drain() == as_lines(EARLIER)


# -- undelivered_bytes_max: accepted and not in a file yet, per shard ------------------------------------


def test_too_many_bytes_awaiting_delivery_get_429_until_files_are_written(make_face: MakeFace) -> None:
    face = make_face(Limits(undelivered_bytes_max=100))
    pipeline = face.create()
    first, second = {"a": "x" * 60}, {"b": "y" * 60}
    assert face.ingest(pipeline, [first]).status == 200
    answer = face.ingest(pipeline, [second])
    assert answer.ingest_error == (
        429,
        0,
        "70 bytes await delivery to buckets; undelivered_bytes_max is 100. Nothing of this request was stored; "
        "send it again later.",
    )
    assert answer.headers["retry-after"] == "5"
    # Less patience lets the file be written, and there is room again.
    body = {"name": "clicks", "destination": {"path": {"bucket": "my-bucket"}, "batch": {"max_rows": 1}}}
    assert face.control("PUT", f"{PIPELINES}/clicks", body).status == 200
    face.wait_delivered()
    assert face.ingest(pipeline, [second]).status == 200
    assert face.drain() == as_lines([first, second])


# -- disk_reserve_bytes -----------------------------------------------------------------------------------


def test_a_disk_filled_to_the_reserve_gets_507_and_ingestion_returns_by_itself(make_face: MakeFace) -> None:
    face = make_face(Limits(disk_reserve_bytes=1_000))
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    face.disk.room = 1_000
    face.wait(lambda: face.node.guard.free_bytes == 1_000)
    answer = face.ingest(pipeline, [{"refused": True}])
    assert answer.ingest_error == (
        507,
        0,
        "The disk has 1000 bytes free; disk_reserve_bytes is 1000. Nothing was stored; it works again when there "
        "is room.",
    )
    assert answer.headers["retry-after"] == "5"
    assert face.control("GET", f"{PIPELINES}/clicks").status == 200
    face.disk.room = 1_001
    face.wait(lambda: face.node.guard.free_bytes == 1_001)
    assert face.ingest(pipeline, [{"n": 3}]).status == 200
    assert face.drain() == as_lines([*EARLIER, {"n": 3}])


def test_a_full_disk_does_not_keep_what_was_accepted_from_being_delivered(make_face: MakeFace) -> None:
    face = make_face(Limits(disk_reserve_bytes=1_000))
    pipeline = face.create()
    face.ingest(pipeline, EARLIER)
    face.disk.room = 0
    face.wait(lambda: face.node.guard.free_bytes == 0)
    assert face.ingest(pipeline, [{"refused": True}]).status == 507
    assert face.drain() == as_lines(EARLIER)
