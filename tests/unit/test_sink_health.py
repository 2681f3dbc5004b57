"""What a shard thinks of its bucket. Names start with the row of the list of faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.base.errors import BucketNotFound, Forbidden, Invalid, NotFound, StorageFull, Unavailable
from penstock.base.limits import SINK_PAUSED_RETRY_MS, SINK_RETRY_BASE_MS, SINK_RETRY_MAX_MS
from penstock.pipelines.sink_health import HEALTHY, SinkHealth, after_failure
from penstock.storage.s3_failure import S3Request, failure

NOW_MS = 1_000_000
PUT = S3Request("https://s3.example", "put", "b", "k")


def test_E1_a_bucket_that_fails_is_tried_again_later_and_later() -> None:
    health, waits = HEALTHY, []
    for _ in range(12):
        health = after_failure(health, Unavailable("down"), NOW_MS, 1.0)
        assert health.retry_ms is not None and health.pause is None and health.last_error == "down"
        waits.append(health.retry_ms - NOW_MS)
    assert waits[:3] == [SINK_RETRY_BASE_MS, 2 * SINK_RETRY_BASE_MS, 4 * SINK_RETRY_BASE_MS]
    assert waits[-1] == SINK_RETRY_MAX_MS
    assert health.failures == 12


@pytest.mark.parametrize("error", [Forbidden("403"), NotFound("404"), BucketNotFound("404")])
def test_E1_what_no_waiting_heals_pauses_and_keeps_when_it_began(error: Exception) -> None:
    first = after_failure(HEALTHY, error, NOW_MS, 0.5)
    assert first.pause is not None and first.pause.since_ms == NOW_MS
    later = after_failure(first, error, NOW_MS + 60_000, 0.5)
    assert later.pause is not None and later.pause.since_ms == NOW_MS
    assert later.retry_ms is not None and later.retry_ms - NOW_MS - 60_000 <= SINK_PAUSED_RETRY_MS


def test_E1_other_trouble_than_what_paused_it_ends_the_pause() -> None:
    paused = after_failure(HEALTHY, Forbidden("403"), NOW_MS, 0.5)
    assert after_failure(paused, Unavailable("503"), NOW_MS, 0.5).pause is None


@pytest.mark.parametrize(
    ("status", "pauses"),
    [
        *((status, False) for status in (400, 408, 409, 412, 425, 429, 500, 502, 503, 504, 507)),
        *((status, True) for status in (401, 403, 404)),
    ],
)
def test_E1_each_status_of_a_server_pauses_or_is_tried_again(status: int, pauses: bool) -> None:
    error = failure(PUT, f"Server returned non-2xx status code: {status}: no")
    health = after_failure(HEALTHY, error, NOW_MS, 0.5)
    assert (health.pause is not None) == pauses
    assert health.retry_ms is not None and health.retry_ms > NOW_MS
    assert str(status) in health.last_error or status in (404, 507)


@given(
    st.builds(SinkHealth, failures=st.integers(0, 2**31)),
    st.sampled_from(
        [Unavailable("x"), Forbidden("x"), NotFound("x"), StorageFull("x"), Invalid("x"), ZeroDivisionError("x")]
    ),
    st.floats(0, 1),
)
def test_E1_the_next_try_is_soon_but_not_at_once(health: SinkHealth, error: Exception, fraction: float) -> None:
    after = after_failure(health, error, NOW_MS, fraction)
    assert after.failures == health.failures + 1
    assert after.retry_ms is not None
    assert SINK_RETRY_BASE_MS / 2 <= after.retry_ms - NOW_MS <= max(SINK_RETRY_MAX_MS, SINK_PAUSED_RETRY_MS)
