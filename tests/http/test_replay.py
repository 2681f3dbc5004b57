"""`POST …/replay`: dead letters go to the pipeline again, each record once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.base.errors import Overloaded
from penstock.base.limits import IDEMPOTENCY_KEY_MS
from penstock.pipelines import replay
from penstock.pipelines.broker import Broker, Route
from penstock.pipelines.records import Batch

from .harness import PIPELINES, Face, content, pipeline_body

REPLAY = f"{PIPELINES}/clicks/replay"
SINCE = "2020-01-01T00:00:00Z"


@pytest.fixture
def fixed(face: Face) -> Face:
    """Two dead-letter files of three records, of a pipeline that takes such records by now."""
    id = face.create(partition_time={"field": "at"}, batch={"max_rows": 3})
    for start in (0, 3):
        face.ingest(id, [{"n": n} for n in range(start, start + 3)])
        face.wait_delivered()
    assert all("_dead" in path.parts for path in face.files())
    assert face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(batch={"max_rows": 1})).status == 200
    return face


def send_again(face: Face, **body: Any) -> dict[str, Any]:
    result: dict[str, Any] = face.control("POST", REPLAY, {"since": SINCE} | body).result
    face.wait_delivered()
    return result


def delivered(face: Face) -> list[int]:
    """The numbers of the records that are in data files."""
    lines = [line for path in face.files() if "_dead" not in path.parts for line in content(path).splitlines()]
    return sorted(json.loads(line)["n"] for line in lines)


def test_all_dead_letters_are_sent_again_once(fixed: Face) -> None:
    result = send_again(fixed)
    assert result == {
        "replayed": {"files": 2, "records": 6, "reasons": {"partition_time": 6}},
        "skipped": [],
        "cursor": None,
    }
    assert delivered(fixed) == [0, 1, 2, 3, 4, 5]
    assert send_again(fixed)["replayed"]["files"] == 0
    assert delivered(fixed) == [0, 1, 2, 3, 4, 5]


def test_a_dry_run_says_what_would_be_sent(fixed: Face) -> None:
    assert send_again(fixed, dry_run=True)["replayed"]["records"] == 6
    assert delivered(fixed) == []
    assert send_again(fixed)["replayed"]["records"] == 6


def test_a_step_takes_as_many_files_as_it_may_and_the_next_goes_on(fixed: Face) -> None:
    first = send_again(fixed, limit=1)
    assert (first["replayed"]["files"], delivered(fixed)) == (1, [0, 1, 2])
    second = send_again(fixed, limit=1, cursor=first["cursor"])
    assert (second["replayed"]["files"], delivered(fixed)) == (1, [0, 1, 2, 3, 4, 5])


def test_files_from_before_since_are_left_alone(fixed: Face) -> None:
    assert send_again(fixed, since="2999-01-01T00:00:00+01:00")["replayed"]["files"] == 0


def test_another_reason_is_left_alone(fixed: Face) -> None:
    assert send_again(fixed, reason="deadline")["replayed"]["files"] == 0
    assert send_again(fixed, reason="partition_time")["replayed"]["files"] == 2


def test_an_attempt_that_was_cut_short_is_made_again_without_a_record_twice(
    fixed: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "REPLAY_PIECE_BYTES", 1)  # each record is a piece
    send, refused = Broker.send, False

    async def refuse_the_third(broker: Broker, route: Route, batch: Batch, key: str) -> int:
        nonlocal refused
        if batch.ndjson == b'{"n": 2}\n' and not refused:
            refused = True
            raise Overloaded("Too much waits.", retry_after_s=7)
        return await send(broker, route, batch, key)

    monkeypatch.setattr(Broker, "send", refuse_the_third)
    first = send_again(fixed)
    assert (first["retry_after_s"], first["waits_for"], first["replayed"]["files"]) == (7, "Too much waits.", 0)
    assert delivered(fixed) == [0, 1]
    second = send_again(fixed, cursor=first["cursor"])
    assert (second["replayed"]["records"], second["cursor"]) == (6, None)
    assert delivered(fixed) == [0, 1, 2, 3, 4, 5]


def test_an_attempt_that_was_cut_short_too_long_ago_is_not_made_again(
    fixed: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> int:
        raise Overloaded("Too much waits.")

    with monkeypatch.context() as full:
        full.setattr(Broker, "send", refuse)
        assert send_again(fixed)["retry_after_s"] == 1
    monkeypatch.setattr(replay, "IDEMPOTENCY_KEY_MS", -IDEMPOTENCY_KEY_MS)
    result = send_again(fixed)
    assert [skipped["message"].split(" was cut")[0] for skipped in result["skipped"]] == [
        "An attempt to send it again"
    ] * 2
    assert delivered(fixed) == []


def test_records_that_die_again_are_not_sent_for_ever(face: Face) -> None:
    id = face.create(partition_time={"field": "at"}, batch={"max_rows": 1})
    face.ingest(id, [{"n": 1}])
    face.wait_delivered()
    assert send_again(face)["replayed"]["files"] == 1
    assert len(face.files()) == 2
    assert send_again(face)["replayed"]["files"] == 1


def test_a_file_that_is_gone_or_changed_is_skipped_and_said(fixed: Face) -> None:
    gone, changed = fixed.files()
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"x")
    result = send_again(fixed)
    assert [skipped["key"].rsplit("/", 1)[1] for skipped in result["skipped"]] == [gone.name, changed.name]
    assert (result["replayed"]["files"], delivered(fixed)) == (0, [])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"since": SINCE, "limit": 0},
        [],
        {"since": SINCE, "cursor": "x"},
        {"since": SINCE, "until": SINCE},
    ],
)
def test_a_body_that_makes_no_sense_is_refused(face: Face, body: object) -> None:
    face.create()
    assert face.control("POST", REPLAY, body).control_error[0] == 400


def test_a_record_that_is_too_deep_to_be_read_again_keeps_no_other_waiting(face: Face) -> None:
    id = face.create(partition_time={"field": "at"}, batch={"max_rows": 1})
    # The deepest that is taken.
    assert any(
        face.ingest(id, b'[{"n":0,"d":%b%b}]' % (b"[" * depth, b"]" * depth)).status == 200
        for depth in range(2_000, 0, -1)
    )
    face.wait_delivered()
    face.ingest(id, [{"n": 1}])
    face.wait_delivered()
    assert face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(batch={"max_rows": 1})).status == 200
    result = send_again(face)
    assert result["replayed"]["records"] + len(result["skipped"]) == 2 and result["cursor"] is None
    assert any(b'"n": 1' in content(path) for path in face.files() if "_dead" not in path.parts)
