"""What the nemesis will do: a function of the seed and nothing else."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    #: A transform or the records choose their files, which are made once and kept beside the database.
    SPOOLED = "while files are prepared"
    #: An upload to the S3 server has begun.
    UPLOAD_BEGUN = "while a file is uploaded"
    #: The S3 server has the file; that it is delivered is not noted yet, or only just.
    UPLOADED = "right after an upload"
    #: A change of settings is under way: a generation is made, shards are told, those before them closed.
    SETTINGS = "while settings change"


class Setting(enum.Enum):
    COMPRESSION = "compression"
    PREFIX = "prefix"
    BATCH = "batch"
    SHARDS = "shards"
    TRANSFORM = "transform"
    #: The key to the S3 server.
    KEY = "key"


class Absence(enum.Enum):
    KILLED = "killed"
    #: It takes connections and answers nothing.
    PAUSED = "paused"


# How often of a hundred. Left to chance, few kills would fall into the few milliseconds about a file.
_KINDS = {Kind.EXECUTOR: 60, Kind.EVERYTHING: 25, Kind.SUPERVISOR: 15}
_MOMENTS = {
    Moment.ANY: 16,
    Moment.FILE_BEGUN: 14,
    Moment.FILE_VISIBLE: 14,
    Moment.FREEING: 14,
    Moment.SPOOLED: 14,
    Moment.UPLOAD_BEGUN: 14,
    Moment.UPLOADED: 14,
}
#: How long after the moment it strikes: to free some thousand rows, or to tell all shards, takes about so long.
_DELAY_S_MAX = {
    Moment.FREEING: 0.04,
    Moment.SPOOLED: 0.02,
    Moment.UPLOAD_BEGUN: 0.005,
    Moment.UPLOADED: 0.003,
    Moment.SETTINGS: 0.05,
}
_SETTINGS = {
    Setting.COMPRESSION: 18,
    Setting.PREFIX: 18,
    Setting.BATCH: 16,
    Setting.SHARDS: 16,
    Setting.TRANSFORM: 16,
    Setting.KEY: 16,
}
#: So many changes of settings are what a kill waits for.
_STRUCK_PERCENT = 60
_ABSENCES = {Absence.KILLED: 50, Absence.PAUSED: 50}
#: Long enough that tries fail and are made again, short enough that the waits between them do not grow to a minute.
_ABSENT_S = (0.2, 4.0)
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


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one setting of one pipeline, after so many kills. `lane` and `value` are shares: which of those
    that there are."""

    after_kills: int
    setting: Setting
    lane: float
    value: float
    #: The kill after those waits for this change.
    struck: bool
    #: After the kills, unless it is struck.
    delay_s: float


@dataclass(frozen=True, slots=True)
class Outage:
    """The S3 server goes away, after so many kills and `delay_s`, for `lasts_s` (and until it has started)."""

    after_kills: int
    absence: Absence
    delay_s: float
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    strikes: list[Strike]
    changes: list[Change]
    outages: list[Outage]


def plan(rng: random.Random, kills: int, updates: int = 0, outages: int = 0) -> Plan:
    strikes = _strikes(rng, kills)
    changes = _changes(rng, strikes, updates)
    for change in changes:
        if change.struck:
            strikes[change.after_kills] = replace(
                strikes[change.after_kills],
                moment=Moment.SETTINGS,
                delay_s=rng.uniform(0, _DELAY_S_MAX[Moment.SETTINGS]),
            )
    return Plan(strikes, changes, _outages(rng, kills, outages))


def _changes(rng: random.Random, strikes: list[Strike], count: int) -> list[Change]:
    """In order. A kill that follows at once on another has nobody to tell of a change."""
    strikable = [
        number for number, strike in enumerate(strikes) if not number or strikes[number - 1].cut_short_s is None
    ]
    struck = rng.sample(strikable, min(len(strikable), count * _STRUCK_PERCENT // 100))
    beside = [rng.randrange(len(strikes)) for _ in range(count - len(struck))]
    when = [(number, True) for number in struck] + [(number, False) for number in beside]
    rng.shuffle(when)
    settings = _deal(rng, _SETTINGS, count)
    changes = [
        Change(number, setting, rng.random(), rng.random(), is_struck, rng.uniform(0, 1))
        for (number, is_struck), setting in zip(when, settings, strict=True)
    ]
    return sorted(changes, key=lambda change: change.after_kills)


def _outages(rng: random.Random, kills: int, count: int) -> list[Outage]:
    """Spread over the kills."""
    return [
        Outage(kills * number // count, absence, rng.uniform(0, 3), rng.uniform(*_ABSENT_S))
        for number, absence in enumerate(_deal(rng, _ABSENCES, count))
    ]


def _strikes(rng: random.Random, kills: int) -> list[Strike]:
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
