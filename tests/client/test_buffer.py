"""Decisions about records that were put, for any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.client.buffer import Batch, Buffer
from penstock.client.settings import ClientSettings

SETTINGS = ClientSettings(batch_records_max=5, batch_bytes_max=300, batch_ms_max=100, buffer_bytes_max=1_000)

_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 400)),
        st.tuples(st.just("pass"), st.integers(1, 150)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("settle"), st.integers(0, 5)),
        st.tuples(st.just("make due"), st.just(0)),
    ),
    max_size=80,
)


@given(_EVENTS)
def test_records_leave_in_order_once_within_all_bounds_and_none_is_forgotten(events: list[tuple[str, int]]) -> None:
    buffer = Buffer(SETTINGS)
    now_ms, due_below = 0, 0
    put: list[tuple[bytes, int]] = []  # what is in the buffer: the record, when
    left: list[bytes] = []
    everything: list[bytes] = []
    taken: list[Batch] = []
    for event, number in events:
        if event == "add":
            record = b"%d:" % len(everything) + b"x" * number
            unsettled = sum(len(r) for r, _ in put) + sum(batch.bytes for batch in taken)
            assert buffer.has_room(record) == (not unsettled or unsettled + len(record) <= 1_000)
            if buffer.has_room(record):
                wait_ms = buffer.wait_ms(now_ms)
                told = buffer.add(record, now_ms)
                assert told or buffer.wait_ms(now_ms) == wait_ms, "a shorter wait that nobody was told of"
                put.append((record, now_ms))
                everything.append(record)
        elif event == "pass":
            now_ms += number
        elif event == "make due":
            due_below = buffer.make_due()
            assert due_below == len(everything)
        elif event == "take" and put:
            batch = buffer.take()
            assert 1 <= len(batch.records) <= 5
            assert batch.bytes == sum(map(len, batch.records)) and (batch.bytes <= 300 or len(batch.records) == 1)
            assert batch.first == len(left)
            left += batch.records
            taken.append(batch)
            del put[: len(batch.records)]
        elif event == "settle" and taken:
            buffer.settle(taken.pop(number % len(taken)))
        full = len(put) >= 5 or sum(len(r) for r, _ in put) >= 300
        flushed = len(left) < due_below
        expected = 0 if full or flushed else max(0, put[0][1] + 100 - now_ms) if put else None
        assert buffer.wait_ms(now_ms) == (expected if put else None)
        assert buffer.settled_below == min([batch.first for batch in taken] + [len(left)])
    assert left == everything[: len(left)]
    unsettled_records = [r for batch in sorted(taken, key=lambda batch: batch.first) for r in batch.records]
    assert buffer.take_all() == unsettled_records + [r for r, _ in put]
    assert buffer.settled_below == len(everything) and buffer.has_room(b"x" * 1_000)
