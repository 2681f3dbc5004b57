"""Idempotency-Key: a request that comes again is stored once. Fault F1 for pipelines."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from penstock.base.errors import Conflict
from penstock.pipelines import broker, idempotency_keys
from penstock.pipelines.idempotency_keys import Claim, fingerprint_of, partition_of
from penstock.pipelines.plan import Plan
from penstock.pipelines.records import parse_batch
from penstock.pipelines.shard_keys import CODE_KEY_FORGONE

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


def shards_of(face: Face, pipeline: str) -> list[str]:
    plan: Plan = face.run(face.node.runtime.namespace("Coordinator").get_by_name(pipeline).plan())
    return plan.shards


def test_a_shard_that_vowed_never_to_take_a_ref_keeps_its_vow(face: Face) -> None:
    [name] = shards_of(face, face.create())
    shard = face.node.runtime.namespace("StreamShard").get_by_name(name)
    assert face.run(shard.forgo("0.1.0")) is None
    assert face.run(shard.forgo("0.1.0")) is None
    with pytest.raises(Conflict) as refused:
        face.run(shard.append(b"{}\n", 1, 1, "0.1.0"))
    assert refused.value.code == CODE_KEY_FORGONE
    assert face.run(shard.append(b"{}\n{}\n", 2, 1, "0.1.1")) == 2
    assert face.run(shard.append(b"{}\n{}\n", 2, 1, "0.1.1")) == 2
    assert face.run(shard.forgo("0.1.1")) == 2
    assert len(face.drain()) == 2


def test_a_shard_that_is_closed_or_has_newer_settings_still_knows_what_it_has(face: Face) -> None:
    [name] = shards_of(face, face.create())
    shard = face.node.runtime.namespace("StreamShard").get_by_name(name)
    assert face.run(shard.append(b"{}\n", 1, 1, "0.1.0")) == 1
    change(face, batch={"max_rows": 7})
    assert face.run(shard.append(b"{}\n", 1, 1, "0.1.0")) == 1
    with pytest.raises(Conflict):
        face.run(shard.append(b"{}\n", 1, 1, "0.2.0"))
    assert len(face.drain()) == 1
    assert face.run(shard.append(b"{}\n", 1, 1, "0.1.0")) == 1
    assert len(face.lines()) == 1


def test_a_claim_moves_once_for_each_ref(face: Face) -> None:
    keys = face.node.runtime.namespace("IdempotencyKeys").get_by_name(f"{face.create()}/3")
    first: Claim = face.run(keys.claim("k", "print", "a"))
    assert first == Claim("3.1.0", "a", None)
    assert face.run(keys.claim("k", "print", "b")) == first
    moved: Claim = face.run(keys.move(first.ref, "b"))
    assert moved == Claim("3.1.1", "b", None)
    assert face.run(keys.move(first.ref, "c")) == moved
    face.run(keys.done(first.ref, 5))  # of the shard that had forgone it: it cannot be
    face.run(keys.done(moved.ref, 7))
    assert face.run(keys.claim("k", "print", "c")) == Claim("3.1.1", "b", 7)
    with pytest.raises(Conflict):
        face.run(keys.move("3.9.0", "c"))


@pytest.mark.parametrize("moved", [False, True])
def test_f1_a_move_that_was_cut_short_is_finished_by_the_next_request(face: Face, moved: bool) -> None:
    pipeline = face.create(metadata={"shards": 2})
    batch = parse_batch(json.dumps(RECORDS).encode())
    [first, second] = shards_of(face, pipeline)
    namespace = face.node.runtime.namespace
    keys = namespace("IdempotencyKeys").get_by_name(partition_of(pipeline, "key-1"))
    claim: Claim = face.run(keys.claim("key-1", fingerprint_of(batch.ndjson), first))
    face.run(namespace("StreamShard").get_by_name(first).forgo(claim.ref))
    if moved:
        face.run(keys.move(claim.ref, second))
    for _ in range(3):
        assert send(face, pipeline, RECORDS).result == {"committed": 2}
    with pytest.raises(Conflict):  # what was under way to the first shard all the time
        face.run(namespace("StreamShard").get_by_name(first).append(batch.ndjson, 2, 1, claim.ref))
    assert len(face.drain()) == 2
