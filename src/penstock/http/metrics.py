"""The numbers of an executor, and of all of them in one scrape.

Components count in plain integers (`statistics`); here they get their metric names. An executor that is asked
collects its siblings' families, adds the label `executor`, and renders the lot. A sibling that does not answer
shows as `penstock_executor_up 0`.
"""

from __future__ import annotations

import operator
import resource
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct, msgpack
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from penstock.http.inflight import Inflight
from penstock.http.ingest import IngestStatistics
from penstock.http.objects import ObjectRequestStatistics
from penstock.objects import Runtime
from penstock.pipelines.environment import PipelineStatistics
from penstock.storage.disk_guard import DiskGuard
from penstock.storage.relay import RelayStatistics

Kind = Literal["counter", "gauge"]


class Family(Struct, frozen=True, array_like=True):
    """A metric with its samples: pairs of labels and value. Counters are named without `_total`."""

    name: str
    kind: Kind
    help: str
    samples: list[tuple[dict[str, str], float]]


_decoder = msgpack.Decoder(list[Family])


def encode_families(families: list[Family]) -> bytes:
    return msgpack.encode(families)


def decode_families(payload: bytes) -> list[Family]:
    return _decoder.decode(payload)


def _one(name: str, kind: Kind, help: str, value: float) -> Family:
    return Family(name, kind, help, [({}, float(value))])


def _by_reason(counts: dict[str, int]) -> list[tuple[dict[str, str], float]]:
    return [({"reason": reason}, float(count)) for reason, count in sorted(counts.items())]


def collect(
    ingest: IngestStatistics,
    pipelines: PipelineStatistics,
    relay: RelayStatistics,
    runtime: Runtime,
    guard: DiskGuard,
    inflight: Inflight,
    object_requests: ObjectRequestStatistics,
    blocked_seconds: float,
    restarts: int,
) -> list[Family]:
    """This executor's numbers."""
    objects = runtime.statistics
    pending = runtime.alarms.pending
    alarms: list[tuple[dict[str, str], float]] = [({}, float(pending))] if pending is not None else []
    classes = list(runtime.class_statistics())
    states = Counter(pipelines.shard_states.values())
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        _one("penstock_ingest_requests", "counter", "Ingest requests.", ingest.requests),
        _one("penstock_ingest_records", "counter", "Records acknowledged.", ingest.records),
        _one("penstock_ingest_bytes", "counter", "Body bytes acknowledged.", ingest.bytes),
        Family(
            "penstock_ingest_refused", "counter", "Ingest requests refused, by reason.", _by_reason(ingest.refused)
        ),
        _one("penstock_ingest_inflight_bytes", "gauge", "Body bytes in memory.", inflight.bytes),
        _one("penstock_files_delivered", "counter", "Files delivered to buckets.", pipelines.files),
        _one("penstock_files_delivered_bytes", "counter", "Bytes of files delivered.", pipelines.file_bytes),
        _one("penstock_records_delivered", "counter", "Records delivered in files.", pipelines.delivered_records),
        Family(
            "penstock_records_dead",
            "counter",
            "Records delivered in dead-letter files, by reason.",
            _by_reason(pipelines.dead_reasons),
        ),
        _one(
            "penstock_delivery_failures",
            "counter",
            "Tries to deliver a file that failed.",
            pipelines.delivery_failures,
        ),
        _one(
            "penstock_undelivered_bytes",
            "gauge",
            "Accepted bytes not yet in a file, in shards active since start.",
            sum(pipelines.undelivered_bytes.values()),
        ),
        _one(
            "penstock_pipelines_paused",
            "gauge",
            "Pipelines whose bucket needs somebody to put something right.",
            len(pipelines.paused_pipelines()),
        ),
        Family(
            "penstock_shards",
            "gauge",
            "Shards active since start, by state.",
            [({"state": state}, float(states[state])) for state in ("open", "draining", "drained")],
        ),
        *by_pipeline(pipelines, runtime.ports.clock.now_ms()),
        _one("penstock_relay_commits", "counter", "Commits given to the relay.", relay.commits),
        _one("penstock_relay_commit_bytes", "counter", "Log bytes given to the relay.", relay.bytes),
        _one("penstock_relay_syncs", "counter", "Syncs of a log.", relay.syncs),
        _one("penstock_relay_sync_seconds", "counter", "Time spent in rounds of syncs.", relay.sync_ms / 1000),
        _one("penstock_relay_sync_seconds_max", "gauge", "The longest round of syncs.", relay.sync_ms_max / 1000),
        _one("penstock_objects_active", "gauge", "Objects in memory.", runtime.active),
        _one("penstock_object_requests", "counter", "HTTP requests to objects.", object_requests.requests),
        Family(
            "penstock_object_requests_refused",
            "counter",
            "HTTP requests to objects answered with an error of ours, by reason.",
            _by_reason(object_requests.refused),
        ),
        Family(
            "penstock_class_objects_active",
            "gauge",
            "Objects in memory, by class.",
            [({"class": name}, float(active)) for name, active, _ in classes],
        ),
        Family(
            "penstock_class_calls",
            "counter",
            "Calls of objects, by class.",
            [({"class": name}, float(counts.calls)) for name, _, counts in classes],
        ),
        Family(
            "penstock_class_failures",
            "counter",
            "Starts, calls and alarms that failed by an error nobody meant, by class.",
            [({"class": name}, float(counts.failures)) for name, _, counts in classes],
        ),
        _one("penstock_object_activations", "counter", "Objects brought into memory.", objects.activations),
        _one("penstock_object_evictions", "counter", "Idle objects closed.", objects.evictions),
        _one("penstock_objects_broken", "counter", "Objects started again after a failed write.", objects.broken),
        Family("penstock_alarms_pending", "gauge", "Alarms in the index.", alarms),
        _one("penstock_alarms_fired", "counter", "Alarms fired.", objects.alarms_fired),
        _one("penstock_alarm_failures", "counter", "Alarm handlers that raised.", objects.alarm_failures),
        _one("penstock_alarms_given_up", "counter", "Alarms that failed for good.", objects.alarms_given_up),
        _one("penstock_executor_restarts", "counter", "Executors that were started in place of one.", restarts),
        _one("penstock_disk_free_bytes", "gauge", "Free space of the data directory.", guard.free_bytes),
        _one(
            "penstock_executor_blocked_seconds",
            "counter",
            "Time in which one object's code, or whatever else, held up all others for 3 s or more.",
            blocked_seconds,
        ),
        _one("penstock_resident_memory_bytes_max", "gauge", "Peak resident memory.", resident),
    ]


_PIPELINE = "penstock_pipeline_"


def by_pipeline(statistics: PipelineStatistics, now_ms: int) -> list[Family]:
    """The same by the pipeline's name, which is not for everybody: `render` leaves these out unless asked."""
    counted = sorted(statistics.by_pipeline.by_name().items())

    def family(name: str, kind: Kind, help: str, values: Iterable[tuple[str, float]]) -> Family:
        return Family(_PIPELINE + name, kind, help, [({"pipeline": key}, float(value)) for key, value in values])

    def counter(name: str, help: str, field: str) -> Family:
        return family(name, "counter", help, [(key, getattr(counters, field)) for key, counters in counted])

    def by_reason(name: str, help: str, field: str) -> Family:
        samples = [
            ({"pipeline": key} | labels, count)
            for key, counters in counted
            for labels, count in _by_reason(getattr(counters, field))
        ]
        return Family(_PIPELINE + name, "counter", help, samples)

    def gauge(name: str, help: str, values: dict[str, float], together: Callable[[float, float], float]) -> Family:
        found = dict.fromkeys((key for key, _ in counted), 0.0)
        for id, value in values.items():
            key = statistics.by_pipeline.name_of(id)
            found[key] = together(found.get(key, 0.0), value)
        return family(name, "gauge", help, sorted(found.items()))

    lags = {id: max(0, now_ms - oldest) / 1000 for id, oldest in statistics.oldest_by_pipeline().items()}
    return [
        counter("requests", "Ingest requests, by pipeline.", "requests"),
        counter("records", "Records acknowledged, by pipeline.", "records"),
        counter("bytes", "Body bytes acknowledged, by pipeline.", "bytes"),
        by_reason("refused", "Ingest requests refused, by pipeline and reason.", "refused"),
        counter("files", "Files delivered, by pipeline.", "files"),
        counter("file_bytes", "Bytes of files delivered, by pipeline.", "file_bytes"),
        counter("records_delivered", "Records delivered in files, by pipeline.", "delivered_records"),
        by_reason("records_dead", "Records delivered in dead-letter files, by pipeline and reason.", "dead"),
        counter("delivery_failures", "Tries to deliver that failed, by pipeline.", "delivery_failures"),
        gauge(
            "backlog_bytes",
            "Accepted bytes not yet in a file, by pipeline.",
            {id: float(size) for id, size in statistics.pipeline_bytes.items()},
            operator.add,
        ),
        gauge("lag_seconds", "Age of the oldest record that is in no file yet, by pipeline.", lags, max),
        gauge(
            "paused",
            "Whether the pipeline's bucket needs somebody to put something right.",
            dict.fromkeys(statistics.paused_pipelines(), 1.0),
            max,
        ),
    ]


def render(by_executor: dict[int, list[Family] | None], with_pipelines: bool = False) -> bytes:
    """All executors' numbers in Prometheus' text format; None for one that did not answer. Those by pipeline only
    if they are wanted: they tell names."""
    shown = {
        slot: families and [f for f in families if with_pipelines or not f.name.startswith(_PIPELINE)]
        for slot, families in by_executor.items()
    }
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(shown))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, by_executor: dict[int, list[Family] | None]) -> None:
        self._by_executor = by_executor

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        up = Metric("penstock_executor_up", "Whether the executor answered.", "gauge")
        for slot, families in sorted(self._by_executor.items()):
            executor = {"executor": str(slot)}
            up.add_sample(up.name, executor, float(families is not None))
            for family in families or []:
                metric = merged.get(family.name)
                if metric is None:
                    metric = merged[family.name] = Metric(family.name, family.help, family.kind)
                suffix = "_total" if family.kind == "counter" else ""
                for labels, value in family.samples:
                    metric.add_sample(family.name + suffix, labels | executor, value)
        return [up, *merged.values()]
