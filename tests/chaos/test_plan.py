from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from .plan import Absence, Kind, Moment, Setting, plan


def test_the_same_seed_is_the_same_plan() -> None:
    assert plan(random.Random(7), 50, 9, 4) == plan(random.Random(7), 50, 9, 4) != plan(random.Random(8), 50, 9, 4)


@pytest.mark.parametrize("seed", range(20))
def test_fifty_kills_have_every_kind_and_moment_and_some_that_cut_recovery_short(seed: int) -> None:
    strikes = plan(random.Random(seed), 50, 10).strikes
    kinds, moments = Counter(s.kind for s in strikes), Counter(s.moment for s in strikes)
    assert len(strikes) == 50
    assert kinds[Kind.EXECUTOR] >= 30 and kinds[Kind.EVERYTHING] >= 12 and kinds[Kind.SUPERVISOR] >= 7
    assert all(moments[moment] >= 2 for moment in Moment)
    assert sum(s.cut_short_s is not None for s in strikes) >= 9


def test_a_kill_during_recovery_waits_for_nothing_and_the_last_recovery_is_waited_for() -> None:
    strikes = plan(random.Random(1), 500, 100).strikes
    for before, strike in pairwise(strikes):
        if before.cut_short_s is not None:
            assert (strike.moment, strike.pause_s) == (Moment.ANY, 0)
    assert strikes[-1].cut_short_s is None


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_short_plan_is_as_long_as_asked_for(kills: int) -> None:
    short = plan(random.Random(1), kills, 5, 2)
    assert (len(short.strikes), len(short.changes), len(short.outages)) == (kills, 5, 2)
    assert all(change.after_kills < kills for change in short.changes)


def test_each_setting_changes_and_the_kill_that_waits_for_a_change_comes_after_it() -> None:
    made = plan(random.Random(1), 300, 50, 20)
    assert {change.setting for change in made.changes} == set(Setting)
    struck = [change.after_kills for change in made.changes if change.struck]
    assert struck == [n for n, strike in enumerate(made.strikes) if strike.moment is Moment.SETTINGS]
    assert len(struck) == 30
    assert {outage.absence for outage in made.outages} == set(Absence)
