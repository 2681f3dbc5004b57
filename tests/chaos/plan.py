"""What the nemesis will do: a function of the seed and nothing else."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar


class Kind(enum.Enum):
    EXECUTOR = "an executor"
    #: The supervisor, so that it restarts nobody, and all executors.
    EVERYTHING = "everything"
    #: Its executors must notice and go before the next server can have their files.
    SUPERVISOR = "the supervisor"


class Moment(enum.Enum):
    ANY = "at any time"
    #: A file is being written, and not in the bucket yet.
    FILE_BEGUN = "while a file is written"
    #: A file is in the bucket; that it is delivered is not noted yet, or only just.
    FILE_VISIBLE = "right after a file appeared"
    #: A file of many requests is in the bucket, and its rows are freed, in several transactions.
    FREEING = "while rows are freed"


# How often of a hundred. Left to chance, few kills would fall into the few milliseconds about a file.
_KINDS = {Kind.EXECUTOR: 60, Kind.EVERYTHING: 25, Kind.SUPERVISOR: 15}
_MOMENTS = {Moment.ANY: 25, Moment.FILE_BEGUN: 25, Moment.FILE_VISIBLE: 25, Moment.FREEING: 25}
#: How long after the moment it strikes: to free some thousand rows takes about so long.
_DELAY_S_MAX = {Moment.FREEING: 0.04}
#: So many are followed by the next kill before the service is back: recovery is killed too.
_CUT_SHORT_PERCENT = 20
#: An executor is back after about 0.1 s, a tree after 0.5 s.
_CUT_SHORT_S_MAX = 0.6
_PAUSE_MEAN_S = 0.4
_PAUSE_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Strike:
    kind: Kind
    moment: Moment = Moment.ANY
    #: Before the moment is waited for.
    pause_s: float = 0.0
    #: After the moment.
    delay_s: float = 0.0
    #: Which executor: the share of them that come before it.
    victim: float = 0.0
    #: When the next strike follows, whatever has recovered by then; None: when all has recovered.
    cut_short_s: float | None = None


def plan(rng: random.Random, kills: int) -> list[Strike]:
    """Every kind and moment has its share, in an order left to chance. The last strike is never cut short."""
    kinds, moments = _deal(rng, _KINDS, kills), _deal(rng, _MOMENTS, kills)
    cut = _deal(rng, {True: _CUT_SHORT_PERCENT, False: 100 - _CUT_SHORT_PERCENT}, kills)
    strikes: list[Strike] = []
    follows = False
    for number, (kind, moment, is_cut) in enumerate(zip(kinds, moments, cut, strict=True), 1):
        is_cut = is_cut and number < kills
        if follows:
            moment = Moment.ANY  # nothing is written while nobody serves, so there is nothing to wait for
        strikes.append(
            Strike(
                kind,
                moment,
                pause_s=0 if follows else min(_PAUSE_S_MAX, rng.expovariate(1 / _PAUSE_MEAN_S)),
                delay_s=rng.uniform(0, _DELAY_S_MAX.get(moment, 0.0)),
                victim=rng.random(),
                cut_short_s=rng.uniform(0, _CUT_SHORT_S_MAX) if is_cut else None,
            )
        )
        follows = is_cut
    return strikes


T = TypeVar("T")


def _deal(rng: random.Random, percents: Mapping[T, int], count: int) -> list[T]:
    """`count` cards of a shuffled pack that holds each as often as its percentage says."""
    pack = [card for card, percent in percents.items() for _ in range(percent * count // 100)]
    pack += rng.choices(list(percents), list(percents.values()), k=count - len(pack))
    rng.shuffle(pack)
    return pack
