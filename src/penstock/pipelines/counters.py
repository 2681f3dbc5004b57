"""What an executor counts of each pipeline since its start, for usage and metrics.

Plain integers, because ingestion counts each request. Bounded, because pipelines come and go: what is one too many
is counted together with others.
"""

from __future__ import annotations

from msgspec import Struct

from penstock.base.limits import PIPELINES_COUNTED_MAX

#: What those are called together that are not counted by themselves.
OTHER = "(other)"


class PipelineCounters(Struct):
    """Since the executor's start. `bytes` are those of the bodies, `file_bytes` those of the files."""

    name: str = ""
    requests: int = 0
    records: int = 0
    bytes: int = 0
    files: int = 0
    file_bytes: int = 0
    delivered_records: int = 0
    delivery_failures: int = 0
    #: Requests by the kind of the error that refused them; dead records by their reason.
    refused: dict[str, int] = {}
    dead: dict[str, int] = {}

    def add(self, other: PipelineCounters) -> None:
        self.requests += other.requests
        self.records += other.records
        self.bytes += other.bytes
        self.files += other.files
        self.file_bytes += other.file_bytes
        self.delivered_records += other.delivered_records
        self.delivery_failures += other.delivery_failures
        for reason, count in other.refused.items():
            add_to(self.refused, reason, count)
        for reason, count in other.dead.items():
            add_to(self.dead, reason, count)


class CountersByPipeline:
    def __init__(self) -> None:
        self._by_id: dict[str, PipelineCounters] = {}
        self._other = PipelineCounters(OTHER)

    def of(self, id: str, name: str) -> PipelineCounters:
        """Those of a pipeline that exists; of others together once there are very many."""
        counters = self._by_id.get(id)
        if counters is None:
            if len(self._by_id) >= PIPELINES_COUNTED_MAX:
                return self._other
            counters = self._by_id[id] = PipelineCounters(name)
        return counters

    def known(self, id: str) -> PipelineCounters:
        """Those of a pipeline that may have none: then they are zero."""
        return self._by_id.get(id) or PipelineCounters()

    def forget(self, id: str) -> None:
        """The pipeline is no more."""
        self._by_id.pop(id, None)

    def by_name(self) -> dict[str, PipelineCounters]:
        """All of them by the pipeline's name; `OTHER` has what was not counted by itself. (No pipeline can
        have that name. A pipeline that was made again under the name of a deleted one goes on with its numbers.)"""
        found: dict[str, PipelineCounters] = {}
        others = [self._other] if self._other.requests or self._other.files else []
        for counters in (*self._by_id.values(), *others):
            found.setdefault(counters.name, PipelineCounters(counters.name)).add(counters)
        return found

    def name_of(self, id: str) -> str:
        counters = self._by_id.get(id)
        return counters.name if counters is not None else OTHER


def add_to(counts: dict[str, int], key: str, count: int = 1) -> None:
    counts[key] = counts.get(key, 0) + count
