from penstock.base.limits import ALARM_RETRIES_MAX
from penstock.base.rng import seeded_rng
from penstock.objects.alarm import (
    Alarm,
    after_lost_tries,
    must_index_before_commit,
    on_fired,
    on_handler_failed,
    pause_after_loss_ms,
)


def test_an_alarm_that_moves_earlier_is_indexed_before_it_is_committed() -> None:
    assert must_index_before_commit(Alarm(100), None)
    assert must_index_before_commit(Alarm(100), 101)


def test_an_alarm_that_moves_later_or_goes_away_is_committed_first() -> None:
    assert not must_index_before_commit(Alarm(100), 100)
    assert not must_index_before_commit(Alarm(100), 99)
    assert not must_index_before_commit(None, 99)
    assert not must_index_before_commit(Alarm(100, failed=True), None)


def test_an_index_entry_that_fires_too_early_runs_nothing() -> None:
    assert not on_fired(None, 100)
    assert not on_fired(Alarm(101), 100)
    assert not on_fired(Alarm(1, failed=True), 100)
    assert on_fired(Alarm(100), 100)


def test_a_failing_handler_is_retried_six_times_at_doubling_intervals_and_then_given_up() -> None:
    rng, alarm, waits = seeded_rng(1), Alarm(0), []
    while not alarm.failed:
        now_ms = alarm.at_ms
        alarm = on_handler_failed(alarm, now_ms, rng)
        waits.append(alarm.at_ms - now_ms)
    assert alarm.retries == ALARM_RETRIES_MAX == 6
    retried = waits[:-1]
    for retry, wait_ms in enumerate(retried):
        assert 2_000 << retry <= wait_ms < (2_000 << retry) * 1.25
    assert len(retried) == 6


def test_tries_that_do_not_count_wait_longer_and_longer_too_and_a_minute_at_last() -> None:
    rng, alarm, waits = seeded_rng(1), Alarm(0), []
    for _ in range(100):
        now_ms = alarm.at_ms
        alarm = on_handler_failed(alarm, now_ms, rng, counted=False)
        waits.append(alarm.at_ms - now_ms)
    assert alarm.retries == 0 and not alarm.failed
    for n, wait_ms in enumerate(waits):
        assert min(2_000 << n, 64_000) <= wait_ms < min(2_000 << n, 64_000) * 1.25


def test_a_try_that_ended_with_its_process_counts_as_one_that_failed() -> None:
    assert after_lost_tries(Alarm(5, retries=1), 0) == Alarm(5, retries=1)
    assert after_lost_tries(Alarm(5, retries=1), 2) == Alarm(5, retries=3, tries=2)
    assert after_lost_tries(Alarm(5), ALARM_RETRIES_MAX).failed is False
    assert after_lost_tries(Alarm(5), ALARM_RETRIES_MAX + 1).failed
    assert [pause_after_loss_ms(lost) for lost in range(4)] == [0, 2_000, 4_000, 8_000]
