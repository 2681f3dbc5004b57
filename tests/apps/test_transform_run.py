"""From NDJSON to calls, and from what became of them to an outcome."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.apps.transform_run import Call, CallResult, Died, Failed, Overdue, Returned, TransformRun, cut
from penstock.base.limits import TRANSFORM_CALL_OUTPUT_BYTES_MAX, TRANSFORM_DEATHS_MAX, TRANSFORM_OUTPUT_BYTES_MAX


def lines(count: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(count)]


def ndjson(records: list[bytes]) -> bytes:
    return b"".join(record + b"\n" for record in records)


class Worker:
    """Answers calls as told about the records in them, and counts."""

    def __init__(self, bad: dict[int, CallResult] | None = None, grow: int = 1, external_deaths: int = 0) -> None:
        self.bad = bad or {}
        self.grow = grow
        self.external_deaths = external_deaths
        self.calls: list[list[int]] = []

    def call(self, call: Call) -> CallResult:
        numbers = [msgspec.json.decode(line)["n"] for line in call.ndjson.splitlines()]
        assert len(numbers) == call.records
        self.calls.append(numbers)
        if self.external_deaths:
            self.external_deaths -= 1
            return Died("from outside")
        for number in numbers:
            if number in self.bad:
                return self.bad[number]
        output = ndjson(call.ndjson.splitlines()) * self.grow
        if len(output) > call.output_bytes_max:
            return Failed("too_large", "too much")
        return Returned(output, call.records * self.grow)

    def finish(self, run: TransformRun) -> TransformRun:
        while (call := run.next()) is not None:
            run.on(self.call(call))
        return run


@given(st.lists(st.integers(0, 10**6)), st.integers(1, 5), st.integers(1, 40))
def test_the_lists_hold_every_record_once_in_order_and_keep_their_bounds(
    numbers: list[int], records_max: int, bytes_max: int
) -> None:
    records = [b'{"n":%d}' % number for number in numbers]
    lists = list(cut(ndjson(records), records_max, bytes_max))
    assert [record for each in lists for record in each] == records
    for each in lists:
        assert 1 <= len(each) <= records_max
        assert len(each) == 1 or len(b"\n".join(each)) <= bytes_max


def test_empty_lines_are_no_records_and_the_last_newline_may_be_missing() -> None:
    assert list(cut(b'\n{"a":1}\n\n{"b":2}', 10)) == [[b'{"a":1}', b'{"b":2}']]
    assert list(cut(b"", 10)) == []


def test_records_go_through_in_their_order() -> None:
    worker = Worker()
    outcome = worker.finish(TransformRun(ndjson(lines(5)), 2)).outcome()
    assert worker.calls == [[0, 1], [2, 3], [4]]
    assert (outcome.ndjson, outcome.records, outcome.dead) == (ndjson(lines(5)), 5, [])


def test_no_records_make_no_call() -> None:
    run = TransformRun(b"", 10)
    assert run.next() is None
    assert (run.outcome().ndjson, run.outcome().records) == (b"", 0)


def test_a_list_that_raises_is_halved_until_the_bad_records_stand_alone() -> None:
    worker = Worker({2: Failed("error", "bad"), 5: Failed("invalid_result", "worse")})
    outcome = worker.finish(TransformRun(ndjson(lines(8)), 8)).outcome()
    assert worker.calls[:5] == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [0, 1], [2, 3], [2]]
    assert outcome.ndjson == ndjson([line for n, line in enumerate(lines(8)) if n not in (2, 5)])
    assert outcome.records == 6
    assert [(dead.record, dead.reason, dead.detail) for dead in outcome.dead] == [
        (b'{"n":2}', "error", "bad"),
        (b'{"n":5}', "invalid_result", "worse"),
    ]


def test_a_list_over_its_deadline_is_dead_as_a_whole_and_the_next_one_goes_on() -> None:
    worker = Worker({1: Overdue("slow")})
    outcome = worker.finish(TransformRun(ndjson(lines(5)), 3)).outcome()
    assert worker.calls == [[0, 1, 2], [3, 4]]
    assert [(dead.record, dead.reason) for dead in outcome.dead] == [(line, "deadline") for line in lines(3)]
    assert outcome.ndjson == ndjson(lines(5)[3:])


def test_a_record_that_kills_the_worker_is_found_and_dead_at_its_second_try() -> None:
    worker = Worker({3: Died("SIGSEGV")})
    outcome = worker.finish(TransformRun(ndjson(lines(4)), 4)).outcome()
    assert worker.calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [3]]
    assert [(dead.record, dead.reason, dead.detail) for dead in outcome.dead] == [(b'{"n":3}', "crash", "SIGSEGV")]
    assert outcome.records == 3


def test_a_worker_that_something_else_killed_makes_no_record_dead() -> None:
    worker = Worker(external_deaths=1)
    assert worker.finish(TransformRun(ndjson(lines(1)), 4)).outcome().dead == []
    worker = Worker(external_deaths=1)
    assert worker.finish(TransformRun(ndjson(lines(3)), 4)).outcome().ndjson == ndjson(lines(3))


def test_a_worker_that_always_dies_is_not_started_for_ever() -> None:
    worker = Worker(dict.fromkeys(range(3_000), Died("out of memory")))
    outcome = worker.finish(TransformRun(ndjson(lines(3_000)), 1_000)).outcome()
    assert len(worker.calls) <= TRANSFORM_DEATHS_MAX + 20
    assert sorted(dead.record for dead in outcome.dead) == sorted(lines(3_000))
    assert {dead.reason for dead in outcome.dead} == {"crash"}


def test_what_the_calls_give_together_is_bounded() -> None:
    big = ndjson([b'{"n":%d,"text":"%s"}' % (n, b"x" * 100_000) for n in range(200)])
    worker = Worker(grow=10)
    outcome = worker.finish(TransformRun(big, 50)).outcome()
    assert len(outcome.ndjson) <= max(TRANSFORM_OUTPUT_BYTES_MAX, 4 * len(big))
    assert outcome.dead and {dead.reason for dead in outcome.dead} == {"too_large"}
    assert outcome.records == 10 * (200 - len(outcome.dead))
    first = TransformRun(big, 50).next()
    assert first is not None and first.output_bytes_max == TRANSFORM_CALL_OUTPUT_BYTES_MAX


BAD = st.sampled_from(
    [Failed("error", "e"), Failed("invalid_result", "i"), Failed("too_large", "t"), Overdue("o"), Died("d")]
)


@given(st.integers(0, 60), st.integers(1, 20), st.dictionaries(st.integers(0, 59), BAD))
def test_every_record_is_in_a_call_that_succeeded_or_dead_never_both(
    count: int, records_max: int, bad: dict[int, CallResult]
) -> None:
    outcome = Worker(bad).finish(TransformRun(ndjson(lines(count)), records_max)).outcome()
    dead = [record.record for record in outcome.dead]
    assert sorted([*outcome.ndjson.splitlines(), *dead]) == sorted(lines(count))
    assert outcome.records == count - len(dead)
    assert not {lines(count)[number] for number in bad if number < count} & {*outcome.ndjson.splitlines()}


@pytest.mark.parametrize("length", [999, 1_000, 1_001, 100_000])
def test_a_detail_is_bounded(length: int) -> None:
    worker = Worker({0: Failed("error", "x" * length)})
    (dead,) = worker.finish(TransformRun(ndjson(lines(1)), 1)).outcome().dead
    assert len(dead.detail) == min(length, 1_000)
    assert dead.detail.endswith("…") == (length > 1_000)
