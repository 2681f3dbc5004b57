from penstock.base.limits import ALARM_RETRIES_MAX
from penstock.base.rng import seeded_rng
from penstock.objects.alarm import Alarm, must_index_before_commit, on_fired, on_handler_failed


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
