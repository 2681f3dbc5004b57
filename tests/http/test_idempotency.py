"""Idempotency-Key: a request that comes again is stored once. Fault F1 for pipelines."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from penstock.pipelines import idempotency_keys

from .harness import ACCOUNT, PIPELINES, Answer, Face, pipeline_body

RECORDS = [{"n": 1}, {"n": 2}]


def send(face: Face, pipeline: str, body: object, key: str = "key-1", **headers: str) -> Answer:
    return face.ingest(pipeline, body, {"idempotency-key": key} | headers)


def change(face: Face, **settings: Any) -> None:
    assert face.control("PUT", f"{PIPELINES}/clicks", pipeline_body(**settings)).status == 200


def test_f1_a_request_that_comes_again_is_answered_alike_and_stored_once(face: Face) -> None:
    pipeline = face.create(metadata={"shards": 5})
    for _ in range(20):
        assert send(face, pipeline, RECORDS).result == {"committed": 2}
    assert sorted(face.drain()) == [b'{"n": 1}', b'{"n": 2}']


def test_f1_requests_at_the_same_time_are_stored_once(face: Face) -> None:
    pipeline = face.create(metadata={"shards": 5})
    exchanges = [face.open("POST", f"/ingest/{pipeline}", {"idempotency-key": "k"}) for _ in range(30)]
    for exchange in exchanges:
        exchange.push(json.dumps(RECORDS).encode())
    answers = [exchange.answer() for exchange in exchanges]
    assert [answer.result if answer else None for answer in answers] == [{"committed": 2}] * 30
    assert len(face.drain()) == 2


def test_the_encoding_makes_no_other_request_of_it(face: Face) -> None:
    pipeline = face.create()
    body = json.dumps(RECORDS).encode()
    send(face, pipeline, body)
    assert send(face, pipeline, gzip.compress(body), **{"content-encoding": "gzip"}).status == 200
    assert len(face.drain()) == 2


def test_other_keys_and_other_pipelines_are_other_requests(face: Face) -> None:
    first, second = face.create(), face.create("orders")
    for key in ("a", "A", "a ", '"a"', "b", "~" * 255):
        assert send(face, first, RECORDS, key).status == 200
    assert send(face, second, RECORDS, "a").status == 200
    assert face.ingest(first, RECORDS).status == 200
    for name in ("clicks", "orders"):
        assert face.control("DELETE", f"{PIPELINES}/{name}").status == 200
    face.wait_delivered()
    assert len(face.lines()) == 16


def test_a_key_with_another_body_gets_422_and_nothing_is_stored(face: Face) -> None:
    pipeline = face.create()
    send(face, pipeline, RECORDS)
    status, code, message = send(face, pipeline, [{"n": 3}]).ingest_error
    assert (status, code) == (422, 0)
    assert message.startswith("The Idempotency-Key 'key-1' was used with another body in the last 24 hours.")
    assert len(face.drain()) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "\t", "a\x7f", "ü", "\xa0"])
def test_what_can_be_no_key_gets_400(face: Face, key: str) -> None:
    status, _, message = send(face, face.create(), RECORDS, key).ingest_error
    assert status == 400
    assert message == "Idempotency-Key must be sent once, and be 1 to 255 printable ASCII characters."
    assert face.drain() == []


def test_two_keys_get_400(face: Face) -> None:
    exchange = face.open("POST", f"/ingest/{face.create()}", {"idempotency-key": "a", "Idempotency-Key": "b"})
    exchange.push(b"{}")
    answer = exchange.answer()
    assert answer is not None and answer.status == 400


def test_a_refused_request_claims_no_key(face: Face) -> None:
    pipeline = face.create()
    assert send(face, pipeline, b"nonsense").status == 400
    assert send(face, pipeline, RECORDS).result == {"committed": 2}


def test_f1_a_retry_after_a_change_of_settings_and_shards_is_stored_once(face: Face) -> None:
    pipeline = face.create(metadata={"shards": 8})
    keys = [f"k{n}" for n in range(40)]
    for count in (8, 1, 5, 2):
        change(face, metadata={"shards": count}, batch={"max_rows": 1_000 + count})
        for key in keys:
            assert send(face, pipeline, RECORDS, key).result == {"committed": 2}
    assert len(face.drain()) == 2 * len(keys)


def test_f1_a_retry_whose_first_answer_nobody_noted_asks_the_shard(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.pipelines import broker

    monkeypatch.setattr(broker, "IDEMPOTENCY_NOTES_MAX", 0)
    pipeline = face.create(metadata={"shards": 8})
    keys = [f"k{n}" for n in range(40)]
    for count in (8, 1, 5, 2):
        change(face, metadata={"shards": count}, batch={"max_rows": 1_000 + count})
        for key in keys:
            assert send(face, pipeline, RECORDS, key).result == {"committed": 2}
    assert len(face.drain()) == 2 * len(keys)


def test_keys_are_refused_when_there_are_too_many_of_them(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency_keys, "IDEMPOTENCY_KEYS_MAX", 16)
    pipeline = face.create()
    answers = [send(face, pipeline, RECORDS, f"k{n}") for n in range(100)]
    taken = [answer for answer in answers if answer.status == 200]
    assert len(taken) == 16  # one in each partition
    refused = next(answer for answer in answers if answer.status != 200)
    assert refused.status == 429 and refused.headers["retry-after"] == "60"
    assert face.ingest(pipeline, RECORDS).status == 200
    assert [send(face, pipeline, RECORDS, f"k{n}").status for n in range(100)] == [a.status for a in answers]
    assert len(face.drain()) == 2 * 17


def test_only_requests_with_a_key_bring_the_objects_of_keys_to_life(face: Face) -> None:
    objects = f"/client/v4/accounts/{ACCOUNT}/workers/durable_objects/namespaces/IdempotencyKeys/objects"
    pipeline = face.create()
    face.ingest(pipeline, RECORDS)
    assert face.control("GET", objects).result == []
    send(face, pipeline, RECORDS)
    assert len(face.control("GET", objects).result) == 1
