"""The plan of a pipeline: what a broker must know to take records. Pure."""

from __future__ import annotations

from msgspec import Struct

from penstock.base.limits import SHARDS_MAX
from penstock.objects.placement import name_owned_by

#: Cloudflare's default number of shards; with more executors there is one on each, so that a request never
#: leaves the process it came to.
SHARDS_DEFAULT = 2


class Plan(Struct, frozen=True):
    """`version` grows with each change of settings; shards refuse records sent under an older one."""

    pipeline: str
    name: str
    version: int
    shards: list[str]
    http: bool
    authentication: bool
    #: Pages of these origins may see the endpoint's answers; "*" is any.
    cors_origins: list[str]


def plan_shards(pipeline: str, current: list[str], wanted: int | None, executors: int) -> list[str]:
    """The names of a pipeline's shards: `wanted` of them, or the default, going on from those there are.

    New shards are named so that they land on one executor after the other. When fewer are wanted, the last ones
    are left out: they take no more records, and deliver what they hold by themselves.
    """
    count = wanted or min(max(SHARDS_DEFAULT, executors), SHARDS_MAX)
    added = [
        name_owned_by("StreamShard", f"{pipeline}/{index}", index % executors, executors)
        for index in range(len(current), count)
    ]
    return [*current, *added][:count]
