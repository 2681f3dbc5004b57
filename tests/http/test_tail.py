"""A pipeline's records, watched while they come."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from penstock.base.limits import TAIL_LISTENERS_MAX
from penstock.http import tail
from penstock.tokens import token_cache

from .harness import ACCOUNT, PIPELINES, TOKEN, Exchange, Face, pipeline_body


def watch(face: Face, query: str = "", name: str = "clicks") -> Exchange:
    exchange = face.open("GET", f"{PIPELINES}/{name}/tail{query}", {"authorization": f"Bearer {TOKEN}"})
    exchange.send(b"", more=False)
    return exchange


def lines(exchange: Exchange) -> list[Any]:
    return [json.loads(line) for line in exchange.received.splitlines() if line]


def end(face: Face, exchange: Exchange) -> None:
    exchange.disconnect()
    face.wait(lambda: exchange.ended)


def test_records_that_come_are_seen_and_those_from_before_are_not(face: Face) -> None:
    pipeline = face.create()
    face.ingest(pipeline, [{"n": 0}])
    exchange = watch(face)
    face.ingest(pipeline, [{"n": 1}, {"n": 2}])
    face.ingest(pipeline, [{"n": 3}])
    face.wait(lambda: len(lines(exchange)) == 3)
    assert lines(exchange) == [{"record": {"n": n}} for n in (1, 2, 3)]
    end(face, exchange)


def test_all_shards_are_watched_and_a_sample_is_one(face: Face) -> None:
    pipeline = face.create(metadata={"shards": 4})
    all_, some = watch(face), watch(face, "?sample=0.2")
    for number in range(50):
        face.ingest(pipeline, [{"n": 20 * number + position} for position in range(20)])
    face.wait(lambda: len(lines(all_)) == 1_000)
    assert sorted(line["record"]["n"] for line in lines(all_)) == list(range(1_000))
    face.ingest(pipeline, [{"n": -1}] * 100)
    face.wait(lambda: len(lines(all_)) == 1_100)
    assert 130 < len(lines(some)) < 310
    end(face, all_)
    end(face, some)


def test_a_tail_goes_on_with_the_shards_of_the_next_generation(face: Face) -> None:
    pipeline = face.create()
    exchange = watch(face)
    face.ingest(pipeline, [{"n": 1}])

    def more_than(seen: int) -> bool:
        face.ingest(pipeline, [{"n": 2}])
        return len(lines(exchange)) > seen

    for compression in ("none", "zstd"):
        body = pipeline_body(compression={"type": compression})
        assert face.control("PUT", f"{PIPELINES}/clicks", body).status == 200
        # Nothing says when the new shards are watched; a record that is seen does.
        face.wait(partial(more_than, len(lines(exchange))))
    face.control("DELETE", f"{PIPELINES}/clicks")
    face.wait(lambda: exchange.ended)
    assert lines(exchange)[0] == {"record": {"n": 1}}


def test_a_client_that_goes_leaves_nothing_behind(face: Face) -> None:
    face.create()
    for _ in range(3 * TAIL_LISTENERS_MAX):
        end(face, watch(face))
    opened = [watch(face) for _ in range(TAIL_LISTENERS_MAX)]
    refused = watch(face).answer()
    assert refused is not None and refused.status == 429 and "retry-after" in refused.headers
    for exchange in opened:
        end(face, exchange)


def test_i6_tails_of_an_executor_are_bounded(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "TAILS_MAX", 1)
    face.create()
    exchange = watch(face)
    refused = watch(face).answer()
    assert refused is not None and refused.status == 429
    end(face, exchange)
    again = watch(face)
    assert not again.ended
    end(face, again)


def test_a_silent_tail_is_kept_alive(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "TAIL_KEEP_ALIVE_MS", 5)
    face.create()
    exchange = watch(face)
    face.wait(lambda: exchange.received.startswith(b"\n\n"))
    end(face, exchange)


def test_A5_a_tail_ends_when_the_executor_drains(face: Face) -> None:
    face.create()
    exchange = watch(face)
    face.node.drain()
    face.wait(lambda: exchange.ended)


def test_g6_a_tail_ends_when_its_token_is_revoked(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "TAIL_FOLLOW_MS", 5)
    monkeypatch.setattr(token_cache, "TOKEN_TRUSTED_MS_MAX", 10)
    pipeline = face.create()
    tokens = f"/client/v4/accounts/{ACCOUNT}/tokens"
    body = {"name": "watcher", "scopes": ["pipelines:read"], "pipelines": ["clicks"]}
    token = face.control("POST", tokens, body).result
    exchange = face.open("GET", f"{PIPELINES}/clicks/tail", {"authorization": f"Bearer {token['token']}"})
    exchange.send(b"", more=False)
    other = watch(face)
    for number in range(5):
        face.ingest(pipeline, [{"n": number}])
        face.wait(lambda: len(lines(exchange)) > number)  # noqa: B023 - it is over within the turn
    face.control("DELETE", f"{tokens}/{token['id']}")
    face.wait(lambda: exchange.ended)
    assert not other.ended
    end(face, other)


def test_delivery_goes_on_while_nobody_reads_the_tail(face: Face) -> None:
    pipeline = face.create(batch={"max_rows": 1})
    exchange = watch(face)
    for number in range(5):
        face.ingest(pipeline, [{"n": number}])
    face.wait_delivered()
    assert len(face.lines()) == 5
    end(face, exchange)


@pytest.mark.parametrize("sample", ["0", "-1", "1.1", "nan", "x", ""])
def test_a_sample_that_is_no_share_is_refused(face: Face, sample: str) -> None:
    face.create()
    assert face.control("GET", f"{PIPELINES}/clicks/tail?sample={sample}").status == 400


def test_a_pipeline_that_is_not_there_cannot_be_watched(face: Face) -> None:
    assert face.control("GET", f"{PIPELINES}/nothing/tail").control_error[:2] == (404, 1000)
