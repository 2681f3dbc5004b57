"""What the objects of this package are registered with."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.base.limits import Limits
from penstock.pipelines.transforms import NoTransforms, Transforms


@dataclass(slots=True)
class PipelineStatistics:
    """Counters since start, of one executor; `undelivered_bytes` is by shard."""

    files: int = 0
    file_bytes: int = 0
    delivered_records: int = 0
    delivery_failures: int = 0
    undelivered_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PipelineEnv:
    limits: Limits
    #: How many executors there are: a pipeline has a shard on each, unless its settings say how many.
    executors: int
    statistics: PipelineStatistics
    #: The users' functions that a pipeline can run its records through.
    transforms: Transforms = field(default_factory=NoTransforms)
