"""How many shards a pipeline gets, by the loads that they tell."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.base.limits import MIB, SHARDS_MAX
from penstock.pipelines.scaling import (
    BACKLOG_S,
    HEARTBEAT_MS,
    QUIET_MS,
    SHARD_BYTES_PER_S,
    SHARD_REQUESTS_PER_S,
    LoadMeter,
    ShardLoad,
    wanted_shards,
)

FEWEST = 2


def loads(count: int, bytes_per_s: float, requests_per_s: float = 0.0, backlog_bytes: int = 0) -> list[ShardLoad]:
    """What `count` shards tell that share a load evenly."""
    return [
        ShardLoad(f"s{n}", requests_per_s / count, bytes_per_s / count, backlog_bytes // count)
        for n in range(count)
    ]


def settle(bytes_per_s: float, requests_per_s: float = 0.0, start: int = FEWEST, beats: int = 200) -> list[int]:
    """The number of shards after each heartbeat of a constant load."""
    shards, seen, story, now_ms = start, dict[str, tuple[ShardLoad, int]](), [], 0
    for _ in range(beats):
        now_ms += HEARTBEAT_MS
        for load in loads(shards, bytes_per_s, requests_per_s):
            seen = {name: told for name, told in seen.items() if int(name[1:]) < shards}
            seen[load.shard] = (load, now_ms)
            wanted = wanted_shards(list(seen.values()), shards, FEWEST, now_ms)
            if wanted != shards:
                shards = wanted
                seen.clear()
            story.append(shards)
    return story


def test_a_load_that_the_shards_can_bear_changes_nothing() -> None:
    told = [(load, 0) for load in loads(2, 2 * SHARD_BYTES_PER_S * 0.99)]
    assert wanted_shards(told, 2, FEWEST, 0) == 2


@pytest.mark.parametrize("load", [loads(2, 3.0 * SHARD_BYTES_PER_S), loads(2, 0, 3.0 * SHARD_REQUESTS_PER_S)])
def test_more_than_the_shards_can_bear_adds_one(load: list[ShardLoad]) -> None:
    assert wanted_shards([(one, 0) for one in load], 2, FEWEST, 0) == 3


def test_a_backlog_that_is_no_burst_adds_one_and_a_burst_does_not() -> None:
    burst = loads(2, 2 * MIB, backlog_bytes=2 * MIB * (BACKLOG_S - 1))
    behind = loads(2, 2 * MIB, backlog_bytes=2 * MIB * (BACKLOG_S + 1))
    assert wanted_shards([(one, 0) for one in burst], 2, FEWEST, 0) == 2
    assert wanted_shards([(one, 0) for one in behind], 2, FEWEST, 0) == 3


def test_there_are_never_more_than_the_most() -> None:
    told = [(load, 0) for load in loads(SHARDS_MAX, 1e12)]
    assert wanted_shards(told, SHARDS_MAX, FEWEST, 0) == SHARDS_MAX


def test_idle_shards_are_taken_away_one_by_one_down_to_the_fewest() -> None:
    assert settle(1_000.0, start=8)[-1] == FEWEST
    story = [8, *settle(1_000.0, start=8)]
    assert all(before - after in (0, 1) for before, after in pairwise(story))


def test_nothing_is_taken_away_before_all_have_been_heard() -> None:
    told = [(load, 0) for load in loads(5, 0.0)][:4]
    assert wanted_shards(told, 5, FEWEST, 0) == 5


def test_a_shard_that_said_nothing_for_long_counts_as_quiet() -> None:
    busy = [(load, 0) for load in loads(2, 5.0 * SHARD_BYTES_PER_S)]
    assert wanted_shards(busy, 2, FEWEST, QUIET_MS) == 3
    assert wanted_shards(busy, 2, FEWEST, QUIET_MS + 1) == 2
    assert wanted_shards([], 2, FEWEST, 0) == 2


@given(st.floats(0, SHARDS_MAX * 1.5), st.integers(FEWEST, SHARDS_MAX))
@example(2.0625, SHARDS_MAX)
def test_a_constant_load_converges_and_then_nothing_flaps(load: float, start: int) -> None:
    story = settle(load * SHARD_BYTES_PER_S, start=start)
    steps = [after - before for before, after in pairwise([start, *story])]
    assert all(abs(step) <= 1 for step in steps)
    half = story[len(story) // 2 :]
    assert len(set(half)) == 1, "it still changes"
    assert len(set(steps) - {0}) <= 1, "it went one way and then the other"
    assert half[-1] == SHARDS_MAX or half[-1] >= load - 1e-6


@given(
    st.lists(
        st.tuples(st.floats(0, 1e12), st.floats(0, 1e9), st.integers(0, 2**50), st.integers(0, 2**30)), max_size=20
    ),
    st.integers(1, SHARDS_MAX),
    st.integers(1, SHARDS_MAX),
)
def test_the_number_changes_by_one_at_most_and_keeps_its_bounds(
    told: list[tuple[float, float, int, int]], current: int, fewest: int
) -> None:
    heard = [
        (ShardLoad(f"s{n}", requests, size, backlog), at) for n, (requests, size, backlog, at) in enumerate(told)
    ]
    wanted = wanted_shards(heard, current, fewest, 2**30)
    assert abs(wanted - current) <= 1
    assert min(current, fewest) <= wanted <= max(current, SHARDS_MAX)


def test_a_meter_tells_the_load_since_its_last_reading() -> None:
    meter = LoadMeter("s", 1_000)
    due = [meter.add(500, 1_000 + n * HEARTBEAT_MS // 10) for n in range(1, 11)]
    assert due == [False] * 9 + [True]
    assert meter.read(7, 1_000 + HEARTBEAT_MS) == ShardLoad("s", 1.0, 500.0, 7)
    assert not meter.add(1, 1_001 + HEARTBEAT_MS)
    assert meter.read(0, 1_000 + 2 * HEARTBEAT_MS) == ShardLoad("s", 0.1, 0.1, 0)


def test_a_meter_asks_for_one_heartbeat_until_it_is_read() -> None:
    meter = LoadMeter("s", 0)
    assert [meter.add(1, HEARTBEAT_MS) for _ in range(3)] == [True, False, False]
    assert meter.read(0, HEARTBEAT_MS).requests_per_s == 0.3
    assert [meter.add(1, 2 * HEARTBEAT_MS) for _ in range(2)] == [True, False]
