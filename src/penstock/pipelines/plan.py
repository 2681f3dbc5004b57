"""The plan of a pipeline: what a broker must know to take records. Pure."""

from __future__ import annotations

from msgspec import Struct

from penstock.base.limits import SHARDS_MAX
from penstock.objects.placement import name_owned_by

#: Cloudflare's default number of shards; with more executors there is one on each, so that a request never
#: leaves the process it came to.
SHARDS_DEFAULT = 2


class Plan(Struct, frozen=True):
    """`version` is that of the pipeline's generation; its shards refuse records sent under another."""

    pipeline: str
    version: int
    shards: list[str]
    http: bool
    authentication: bool
    #: Of the pipeline, for people; it never changes.
    name: str = ""


def shard_count(wanted: int | None, executors: int) -> int:
    """How many shards a pipeline starts with, if its settings want so many (None: they leave it to us)."""
    return wanted or min(max(SHARDS_DEFAULT, executors), SHARDS_MAX)


def shard_name(pipeline: str, version: int, index: int, executors: int) -> str:
    """The name of a generation's shard `index`, such that it lands on one executor after the other."""
    return name_owned_by("StreamShard", f"{pipeline}/{version}/{index}", index % executors, executors)
