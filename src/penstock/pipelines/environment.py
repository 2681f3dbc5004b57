"""What the objects of this package are registered with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from penstock.base.limits import Limits
from penstock.pipelines.backpressure import Backlog
from penstock.pipelines.counters import CountersByPipeline
from penstock.pipelines.spool import Spool
from penstock.pipelines.transforms import Transforms
from penstock.storage.offload import Offload


@dataclass(slots=True)
class PipelineStatistics:
    """Counters since start, of one executor, and what its shards hold now.

    A shard that is not in memory holds what it held when it left it."""

    files: int = 0
    file_bytes: int = 0
    delivered_records: int = 0
    dead_records: int = 0
    dead_reasons: Counter[str] = field(default_factory=Counter)
    delivery_failures: int = 0
    by_pipeline: CountersByPipeline = field(default_factory=CountersByPipeline)
    #: Accepted bytes that are in no file yet, by shard, by pipeline, and of all.
    undelivered_bytes: dict[str, int] = field(default_factory=dict)
    pipeline_bytes: dict[str, int] = field(default_factory=dict)
    executor_bytes: int = 0
    #: When the oldest record came that is in no file yet, wall time, by shard.
    oldest_ms: dict[str, int] = field(default_factory=dict)
    #: `open`, `draining` or `drained`, by shard.
    shard_states: dict[str, str] = field(default_factory=dict)
    #: Shards whose bucket needs somebody to put something right.
    paused: set[str] = field(default_factory=set)
    _pipeline_of: dict[str, str] = field(default_factory=dict)

    def backlog(self, pipeline: str, shard_bytes: int) -> Backlog:
        return Backlog(
            shard_bytes, self.pipeline_bytes.get(pipeline, 0), self.executor_bytes, len(self.pipeline_bytes)
        )

    def note_backlog(self, pipeline: str, shard: str, size_bytes: int, oldest_ms: int | None = None) -> None:
        change = size_bytes - self.undelivered_bytes.get(shard, 0)
        if not change:
            return
        self._pipeline_of[shard] = pipeline
        self.undelivered_bytes[shard] = size_bytes
        if oldest_ms is None:
            self.oldest_ms.pop(shard, None)
        else:
            self.oldest_ms[shard] = oldest_ms
        self.executor_bytes += change
        left = self.pipeline_bytes.get(pipeline, 0) + change
        if left:
            self.pipeline_bytes[pipeline] = left
        else:
            self.pipeline_bytes.pop(pipeline, None)

    def note_pause(self, pipeline: str, shard: str, paused: bool) -> None:
        if paused:
            self._pipeline_of[shard] = pipeline
            self.paused.add(shard)
        else:
            self.paused.discard(shard)

    def paused_pipelines(self) -> set[str]:
        """Ids of pipelines with a shard that is paused."""
        return {self._pipeline_of[shard] for shard in self.paused}

    def oldest_by_pipeline(self) -> dict[str, int]:
        """When the oldest record of each pipeline came that is in no file yet; by id."""
        found: dict[str, int] = {}
        for shard, oldest_ms in self.oldest_ms.items():
            pipeline = self._pipeline_of[shard]
            found[pipeline] = min(oldest_ms, found.get(pipeline, oldest_ms))
        return found

    def forget(self, shard: str) -> None:
        """The shard is no more."""
        self.shard_states.pop(shard, None)
        pipeline = self._pipeline_of.get(shard)
        if pipeline is not None:
            self.note_backlog(pipeline, shard, 0)
            del self._pipeline_of[shard]
        self.undelivered_bytes.pop(shard, None)
        self.paused.discard(shard)


@dataclass(frozen=True, slots=True)
class PipelineEnv:
    limits: Limits
    #: How many executors there are: a pipeline has a shard on each, unless its settings say how many.
    executors: int
    statistics: PipelineStatistics
    transforms: Transforms
    spool: Spool
    offload: Offload
