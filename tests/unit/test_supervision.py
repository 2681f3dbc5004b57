from penstock.server.supervision import EXIT_DISK, EXIT_NOT_NOW, EXIT_START, Health, Restart, Stop, on_executor_end


def test_an_executor_that_ran_well_is_started_again_at_once() -> None:
    health, decision = on_executor_end(Health(0, failures=3, was_ready=True), -9, 5_000)
    assert decision == Restart(0)
    assert health.failures == 0


def test_one_that_keeps_ending_is_started_again_at_growing_intervals_for_ever() -> None:
    health, waits = Health(0, was_ready=True), []
    for _ in range(12):
        health, decision = on_executor_end(health, 1, 10)
        assert isinstance(decision, Restart)
        waits.append(decision.after_ms)
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == 5_000


def test_executors_that_never_start_are_given_up() -> None:
    health, decision = Health(0), Restart(0)
    ends = 0
    while isinstance(decision, Restart):
        health, decision = on_executor_end(health, 1, 10)
        ends += 1
    assert ends == 5
    assert isinstance(decision, Stop)
    assert decision.exit_code == EXIT_START


def test_a_start_that_may_succeed_later_is_tried_for_ever() -> None:
    health, waits = Health(0), []
    for _ in range(100):
        health, decision = on_executor_end(health, EXIT_NOT_NOW, 10)
        assert isinstance(decision, Restart)
        waits.append(decision.after_ms)
    assert waits == sorted(waits)
    assert waits[-1] == 5_000


def test_a_disk_that_does_not_sync_stops_the_server() -> None:
    _, decision = on_executor_end(Health(0, was_ready=True), EXIT_DISK, 60_000)
    assert isinstance(decision, Stop)
    assert decision.exit_code == EXIT_DISK
