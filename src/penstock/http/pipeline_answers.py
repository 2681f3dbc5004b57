"""Pipelines as the control API shows them: like Cloudflare's, and beside that what only ours has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.base.clock import rfc3339
from penstock.pipelines.coordinator import Deployment, ShardDescription
from penstock.pipelines.layout import FILENAME_DEFAULT, FILEPATH_DEFAULT
from penstock.pipelines.pipeline_body import CompressionSettings, Metadata
from penstock.pipelines.preparation import PartitionTime
from penstock.pipelines.settings import BatchHints, PipelineDescription, PipelineSettings, Source, TransformRef

Time = Annotated[str, Meta(description="RFC 3339, in UTC.", extra_json_schema={"format": "date-time"})]


def rendered_time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


class PathAnswer(Struct, frozen=True):
    """Where files go in the bucket; prefix and templates are there if they were set."""

    bucket: str
    prefix: str | UnsetType = UNSET
    filepath: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET


class CredentialsAnswer(Struct, frozen=True):
    """Where the bucket is, if not on this machine. The key is never shown."""

    endpoint: str
    region: str
    path_style: bool


class DestinationAnswer(Struct, frozen=True):
    type: Literal["r2"]
    format: Literal["json"]
    batch: BatchHints
    compression: CompressionSettings
    path: PathAnswer
    partition_time: PartitionTime | UnsetType = UNSET
    credentials: CredentialsAnswer | UnsetType = UNSET


class Pipeline(Struct, frozen=True, kw_only=True):
    """`version` grows with each change. `endpoint` is where records are sent: built from the address by which the
    request came."""

    id: str
    name: str
    version: int
    endpoint: str
    source: list[Source]
    transforms: list[TransformRef]
    destination: DestinationAnswer
    #: There if it was set.
    metadata: Metadata | UnsetType = UNSET


class Backlog(Struct, frozen=True):
    """What is stored and in no file yet, in bytes of NDJSON; `oldest_at` is when the oldest of it came."""

    records: int
    bytes: int
    oldest_at: Time | None


class Shard(Struct, frozen=True):
    """`open` shards take records, `closed` ones deliver those that they have. `failures` counts failed tries to
    deliver in a row; `retry_at` is null when nothing is wrong."""

    name: str
    version: int
    state: Annotated[str, Meta(examples=["open", "closed"])]
    executor: int
    reachable: bool
    backlog: Backlog | UnsetType = UNSET
    failures: int | UnsetType = UNSET
    last_error: str | UnsetType | None = UNSET
    retry_at: Time | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


class PipelineDetails(Pipeline, frozen=True, kw_only=True):
    """A pipeline, and how it is. While it is paused `failure_reason` and `paused_since` say why, and since when."""

    status: Literal["running", "paused"]
    backlog: Backlog
    shards: list[Shard]
    failure_reason: str | UnsetType = UNSET
    paused_since: Time | UnsetType | None = UNSET


class DeploymentAnswer(Struct, frozen=True):
    """A version of a pipeline: `opening`, `active`, `draining` or `drained`."""

    version: int
    state: Annotated[str, Meta(examples=["opening", "active", "draining", "drained"])]
    created_at: Time | None
    drained_at: Time | None
    shards: int
    code_version: str | None
    source: list[Source]
    transforms: list[TransformRef]
    destination: DestinationAnswer
    metadata: Metadata | UnsetType = UNSET


def pipeline_answer(pipeline: PipelineDescription, endpoint: str) -> Pipeline:
    settings = pipeline.settings
    return Pipeline(
        id=pipeline.id,
        name=settings.name,
        version=pipeline.version,
        endpoint=endpoint,
        source=settings.source,
        transforms=settings.transforms,
        destination=_destination(settings),
        metadata=_metadata(settings),
    )


def pipeline_details(
    pipeline: PipelineDescription, shards: Sequence[ShardDescription], endpoint: str
) -> PipelineDetails:
    """With whether files get where they should, and what waits."""
    known = [shard.status for shard in shards if shard.status is not None]
    pauses = [status.pause for status in known if status.pause is not None]
    first = min(pauses, key=lambda pause: pause.since_ms) if pauses else None
    oldest_ms = min((status.oldest_ms for status in known if status.oldest_ms is not None), default=None)
    settings = pipeline.settings
    return PipelineDetails(
        id=pipeline.id,
        name=settings.name,
        version=pipeline.version,
        endpoint=endpoint,
        source=settings.source,
        transforms=settings.transforms,
        destination=_destination(settings),
        metadata=_metadata(settings),
        status="running" if first is None else "paused",
        backlog=Backlog(
            sum(status.backlog_records for status in known),
            sum(status.backlog_bytes for status in known),
            rendered_time(oldest_ms),
        ),
        shards=[shard_answer(shard) for shard in shards],
        failure_reason=UNSET if first is None else first.message,
        paused_since=UNSET if first is None else rendered_time(first.since_ms),
    )


def shard_answer(shard: ShardDescription) -> Shard:
    place = (shard.name, shard.version, shard.state, shard.slot)
    if (status := shard.status) is None:
        return Shard(*place, reachable=False)
    return Shard(
        *place,
        reachable=True,
        backlog=Backlog(status.backlog_records, status.backlog_bytes, rendered_time(status.oldest_ms)),
        failures=status.failures,
        last_error=status.last_error or None,
        retry_at=rendered_time(status.retry_ms),
        paused=status.pause is not None,
    )


def deployment_answer(deployment: Deployment) -> DeploymentAnswer:
    settings = deployment.settings
    return DeploymentAnswer(
        version=deployment.version,
        state=deployment.state,
        created_at=rendered_time(deployment.created_ms),
        drained_at=rendered_time(deployment.drained_ms),
        shards=deployment.shards,
        code_version=deployment.code_version or None,
        source=settings.source,
        transforms=settings.transforms,
        destination=_destination(settings),
        metadata=_metadata(settings),
    )


def _destination(settings: PipelineSettings) -> DestinationAnswer:
    s3 = settings.s3
    return DestinationAnswer(
        type="r2",
        format="json",
        batch=settings.batch,
        compression=CompressionSettings(settings.compression),
        path=PathAnswer(
            bucket=settings.bucket,
            prefix=settings.prefix or UNSET,
            filepath=settings.filepath if settings.filepath != FILEPATH_DEFAULT else UNSET,
            filename=settings.filename if settings.filename != FILENAME_DEFAULT else UNSET,
        ),
        partition_time=settings.partition_time or UNSET,
        credentials=CredentialsAnswer(s3.endpoint, s3.region, s3.path_style) if s3 is not None else UNSET,
    )


def _metadata(settings: PipelineSettings) -> Metadata | UnsetType:
    return Metadata(settings.shards) if settings.shards is not None else UNSET
