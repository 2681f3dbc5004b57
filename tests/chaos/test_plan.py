from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from .plan import Kind, Moment, plan


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan(random.Random(7), 50) == plan(random.Random(7), 50) != plan(random.Random(8), 50)


@pytest.mark.parametrize("seed", range(20))
def test_fifty_kills_have_every_kind_and_moment_and_some_that_cut_recovery_short(seed: int) -> None:
    strikes = plan(random.Random(seed), 50)
    kinds, moments = Counter(s.kind for s in strikes), Counter(s.moment for s in strikes)
    assert len(strikes) == 50
    assert kinds[Kind.EXECUTOR] >= 30 and kinds[Kind.EVERYTHING] >= 12 and kinds[Kind.SUPERVISOR] >= 7
    assert all(moments[moment] >= 5 for moment in Moment)
    assert sum(s.cut_short_s is not None for s in strikes) >= 9


def test_a_kill_during_recovery_waits_for_nothing_and_the_last_recovery_is_waited_for() -> None:
    strikes = plan(random.Random(1), 500)
    for before, strike in pairwise(strikes):
        if before.cut_short_s is not None:
            assert (strike.moment, strike.pause_s) == (Moment.ANY, 0)
    assert strikes[-1].cut_short_s is None


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_short_plan_is_as_long_as_asked_for(kills: int) -> None:
    assert len(plan(random.Random(1), kills)) == kills
