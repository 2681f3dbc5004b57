"""Who is refused, and how long they are told to wait."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.base.limits import RETRY_AFTER_S_MAX
from penstock.pipelines.backpressure import Backlog, Budgets, Rate, exceeded, retry_after_s

BUDGETS = Budgets(shard_bytes=1_000, pipeline_bytes=2_000, executor_bytes=10_000)
sizes = st.integers(0, 2**40)


def test_each_budget_is_refused_by_name_with_what_waits_and_what_is_too_much() -> None:
    shard = Backlog(shard_bytes=990, pipeline_bytes=990, executor_bytes=990, pipelines=1)
    assert exceeded(shard, BUDGETS, 10) is None
    assert exceeded(shard, BUDGETS, 11) == ("undelivered_bytes_max", 990, 1)
    pipeline = Backlog(shard_bytes=500, pipeline_bytes=1_990, executor_bytes=1_990, pipelines=1)
    assert exceeded(pipeline, BUDGETS, 10) is None
    assert exceeded(pipeline, BUDGETS, 15) == ("pipeline_undelivered_bytes_max", 1_990, 5)
    executor = Backlog(shard_bytes=500, pipeline_bytes=1_900, executor_bytes=9_990, pipelines=10)
    assert exceeded(executor, BUDGETS, 10) is None
    assert exceeded(executor, BUDGETS, 30) == ("executor_undelivered_bytes_max", 9_990, 20)


def test_F3_a_pipeline_alone_may_use_what_the_executor_has() -> None:
    budgets = Budgets(shard_bytes=2**50, pipeline_bytes=2**50, executor_bytes=10_000)
    assert exceeded(Backlog(9_999, 9_999, 9_999, pipelines=1), budgets, 1) is None
    assert exceeded(Backlog(10_000, 10_000, 10_000, pipelines=1), budgets, 1) is not None


@given(st.integers(1, 2**40), st.integers(0, 1_000), sizes, sizes, st.data())
def test_F3_a_pipeline_within_its_fair_share_is_never_refused_for_the_executors_budget(
    executor_bytes: int, pipelines: int, others_bytes: int, size: int, data: st.DataObject
) -> None:
    share = executor_bytes // max(1, pipelines)
    own_bytes = data.draw(st.integers(0, max(0, share - size)))
    budgets = Budgets(shard_bytes=2**60, pipeline_bytes=2**60, executor_bytes=executor_bytes)
    over = exceeded(Backlog(own_bytes, own_bytes, own_bytes + others_bytes, pipelines), budgets, size)
    assert (over is None) or own_bytes + size > share


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3_000)), max_size=200))
def test_F3_what_all_pipelines_together_hold_stays_within_the_sum_of_the_fair_shares(
    requests: list[tuple[int, int]],
) -> None:
    """With n pipelines that hold something: the executor's budget, and one fair share for each that came after."""
    budgets = Budgets(shard_bytes=2**60, pipeline_bytes=2**60, executor_bytes=10_000)
    held: dict[int, int] = {}
    for pipeline, size in requests:
        backlog = Backlog(held.get(pipeline, 0), held.get(pipeline, 0), sum(held.values()), len(held))
        if exceeded(backlog, budgets, size) is None:
            held[pipeline] = held.get(pipeline, 0) + size
    n = len(held)
    assert sum(held.values()) <= 10_000 + sum(10_000 // k for k in range(1, n)) + 3_000


@given(sizes, st.floats(0, 1e12), st.integers(-(2**40), 2**40))
def test_a_refused_client_is_told_to_wait_between_a_second_and_the_bound(
    over_bytes: int, bytes_per_s: float, wait_ms: int
) -> None:
    assert 1 <= retry_after_s(over_bytes, Rate(bytes_per_s, 1), wait_ms) <= RETRY_AFTER_S_MAX


def test_the_wait_is_what_the_surplus_takes_to_go_out_but_not_before_the_bucket_is_tried_again() -> None:
    assert retry_after_s(10_000, Rate(1_000, 1)) == 10
    assert retry_after_s(10_000, Rate(1_000, 1), wait_ms=42_000) == 42
    assert retry_after_s(10_000, Rate(1_000, 1), wait_ms=2_000) == 10
    assert retry_after_s(10**9, Rate(1_000, 1)) == RETRY_AFTER_S_MAX
    assert 1 < retry_after_s(10_000, Rate()) < 60, "nothing has gone out yet"


@given(st.integers(1, 10_000_000), st.integers(10, 5_000))
def test_a_rate_becomes_that_of_a_steady_flow(bytes_per_s: int, step_ms: int) -> None:
    rate, now_ms = Rate(), 1
    for _ in range(200_000 // step_ms + 2):
        rate = rate.after(bytes_per_s * step_ms // 1000, now_ms)
        now_ms += step_ms
    floor = bytes_per_s * step_ms // 1000 * 1000 / step_ms
    assert 0.98 * floor <= rate.bytes_per_s <= 1.02 * floor


@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 10_000_000)), max_size=50))
def test_a_rate_is_never_negative_whatever_the_times(steps: list[tuple[int, int]]) -> None:
    rate, now_ms = Rate(), 0
    for size, elapsed_ms in steps:
        now_ms += elapsed_ms
        rate = rate.after(size, now_ms)
        assert rate.bytes_per_s >= 0
