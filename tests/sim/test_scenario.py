"""Many runs of the whole system through faults; the same seed is the same run."""

import pytest

from penstock.testing.sim.scenario import Outcome, ScenarioSettings, run_scenario

SEEDS = 120


def check(outcome: Outcome) -> None:
    __tracebackhide__ = True
    if outcome.problems:
        again = f"seed {outcome.seed}; again: scripts/test tests/sim --seed {outcome.seed}"
        pytest.fail("\n".join([*outcome.problems, *outcome.story, again]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "block" in metafunc.fixturenames:
        seed, seeds = metafunc.config.getoption("--seed", None), metafunc.config.getoption("--seeds", None)
        blocks = [range(seed, seed + 1)] if seed is not None else _blocks(seeds or SEEDS)
        metafunc.parametrize("block", blocks, ids=lambda block: f"seeds {block.start} to {block.stop - 1}")


def _blocks(seeds: int) -> list[range]:
    return [range(start, min(start + 20, seeds)) for start in range(0, seeds, 20)]


def test_each_acknowledged_record_is_in_exactly_one_file_whatever_happens(block: range) -> None:
    for seed in block:
        try:
            outcome = run_scenario(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}; again: scripts/test tests/sim --seed {seed}")
            raise
        check(outcome)


def test_the_same_seed_gives_the_same_run() -> None:
    first, again, other = run_scenario(7), run_scenario(7), run_scenario(8)
    assert first == again
    assert first.digest != other.digest


def test_the_runs_are_not_empty() -> None:
    """A scenario in which nothing happens proves nothing."""
    outcomes = [run_scenario(seed) for seed in range(10)]
    happened = {name for outcome in outcomes for name, times in outcome.faults.items() if times}
    assert {"kill", "power_cut", "disk_full", "sync_fails", "bucket_outage", "clock_jumps"} <= happened
    assert {"transforms_fail", "bucket_forbidden", "update_pipeline", "replace_pipeline"} <= happened
    assert sum(outcome.acknowledged for outcome in outcomes) > 10_000
    assert sum(outcome.refused for outcome in outcomes) > 100
    assert sum(outcome.unknown for outcome in outcomes) > 100
    assert all(outcome.files for outcome in outcomes)


def test_without_faults_every_record_is_acknowledged() -> None:
    calm = ScenarioSettings(duration_ms=2_000, fault_pause_ms=(10_000, 10_000), client_pause_ms=(50, 100))
    for seed in range(5):
        outcome = run_scenario(seed, calm)
        check(outcome)
        assert not outcome.unknown
