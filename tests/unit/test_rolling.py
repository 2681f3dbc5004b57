import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.base.rng import seeded_rng
from penstock.pipelines.layout import DAY_MS, HOUR_MS, MINUTE_MS
from penstock.pipelines.rolling import Pending, Rolling, backoff_ms, due_at_ms, partition_end_ms

NOON_MS = 1_763_985_600_000
ROLLING = Rolling(bytes_max=1000, duration_ms_max=60_000, records_max=10)


def test_a_file_is_due_when_it_has_enough_bytes() -> None:
    assert due_at_ms(Pending(NOON_MS, 1, 1000), ROLLING, NOON_MS + 5) == NOON_MS + 5
    assert due_at_ms(Pending(NOON_MS, 1, 999), ROLLING, NOON_MS + 5) > NOON_MS + 5


def test_a_file_is_due_when_it_has_enough_records() -> None:
    assert due_at_ms(Pending(NOON_MS, 10, 1), ROLLING, NOON_MS + 5) == NOON_MS + 5


def test_a_file_is_due_when_its_first_record_has_waited_long_enough() -> None:
    assert due_at_ms(Pending(NOON_MS, 1, 1), ROLLING, NOON_MS) == NOON_MS + 60_000
    assert due_at_ms(Pending(NOON_MS, 1, 1), ROLLING, NOON_MS + 60_001) == NOON_MS + 60_001


def test_a_file_is_due_when_its_hour_is_over() -> None:
    first = NOON_MS + HOUR_MS - 1_000
    assert due_at_ms(Pending(first, 1, 1), ROLLING, first) == NOON_MS + HOUR_MS


@pytest.mark.parametrize("span_ms", [MINUTE_MS, HOUR_MS, DAY_MS])
@given(st.integers(0, 2**43), st.integers(1, 2 * DAY_MS), st.integers(0, 2**43))
def test_a_file_is_due_by_the_end_of_the_partition_of_its_first_record(
    span_ms: int, duration_ms: int, first_ms: int, now_ms: int
) -> None:
    rolling = Rolling(2**40, duration_ms, 2**40, span_ms)
    end_ms = partition_end_ms(first_ms, span_ms)
    assert first_ms < end_ms <= first_ms + span_ms and end_ms % span_ms == 0
    assert due_at_ms(Pending(first_ms, 1, 1), rolling, now_ms) == max(now_ms, min(end_ms, first_ms + duration_ms))


def test_a_file_whose_key_tells_no_time_is_cut_by_no_clock() -> None:
    first = NOON_MS + HOUR_MS - 1
    rolling = Rolling(1000, 60_000, 10, partition_ms=None)
    assert due_at_ms(Pending(first, 1, 1), rolling, first) == first + 60_000


@given(st.integers(0, 2**41), st.integers(0, 20), st.integers(0, 2000), st.integers(0, 2**41))
def test_a_file_is_never_due_in_the_past_nor_later_than_its_duration(
    first_ms: int, records: int, size: int, now_ms: int
) -> None:
    due_ms = due_at_ms(Pending(first_ms, records, size), ROLLING, now_ms)
    assert now_ms <= due_ms <= max(now_ms, first_ms + ROLLING.duration_ms_max)


def test_the_backoff_doubles_up_to_its_bound_and_is_spread() -> None:
    assert [backoff_ms(n, 500, 60_000, 1.0) for n in (1, 2, 3)] == [500, 1000, 2000]
    assert backoff_ms(1_000_000, 500, 60_000, 1.0) == 60_000
    assert backoff_ms(1_000_000, 500, 60_000, 0.0) == 30_000
    rng = seeded_rng(1)
    assert len({backoff_ms(8, 500, 60_000, rng.random()) for _ in range(50)}) > 40
