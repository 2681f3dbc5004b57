"""Fault A1 and A2 with real processes: kill -9 at any time loses nothing, doubles nothing, and is over in 2 s."""

from __future__ import annotations

import random

import pytest

from .harness import run


@pytest.mark.chaos
def test_kills_under_load_lose_nothing_and_double_nothing(request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--chaos-seed", default=None)
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    report = run(seed, request.config.getoption("--chaos-kills", default=None) or 50)
    print(report)
    assert not report.violations, str(report)
