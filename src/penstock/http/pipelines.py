"""`/client/v4/accounts/{account}/pipelines`: Cloudflare's legacy pipelines API."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.clock import rfc3339
from penstock.base.errors import Forbidden, Invalid, NotFound, Unavailable
from penstock.base.limits import BUCKET_CHECK_MS_MAX, LIST_PER_PAGE_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body, read_number
from penstock.objects import Runtime, Stub
from penstock.pipelines.coordinator import Deployment, ShardDescription
from penstock.pipelines.layout import FILENAME_DEFAULT, FILEPATH_DEFAULT
from penstock.pipelines.registry import REGISTRY, Page
from penstock.pipelines.settings import PipelineDescription, PipelineSettings
from penstock.pipelines.settings_body import (
    CODE_INVALID_NAME,
    CODE_INVALID_SETTINGS,
    check_name,
    parse_settings,
)
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE
from penstock.pipelines.transforms import Transforms
from penstock.storage.connection import S3Connection, S3Credentials, connect

log = structlog.get_logger("penstock.http")

BASE = "/client/v4/accounts/{account}/pipelines"
_PER_PAGE_DEFAULT = 20
_PAGE_MAX = 1_000_000


class PipelineRoutes:
    def __init__(self, runtime: Runtime, transforms: Transforms, limits: Limits) -> None:
        self._runtime = runtime
        self._transforms = transforms
        self._limits = limits
        self.endpoints = [
            Endpoint("POST", BASE, "pipelines:write", self.create),
            Endpoint("GET", BASE, "pipelines:read", self.list),
            Endpoint("GET", BASE + "/{name}", "pipelines:read", self.get),
            Endpoint("PUT", BASE + "/{name}", "pipelines:write", self.update),
            Endpoint("DELETE", BASE + "/{name}", "pipelines:write", self.delete),
            Endpoint("GET", BASE + "/{name}/deployments", "pipelines:read", self.deployments),
            Endpoint("GET", BASE + "/{name}/shards", "pipelines:read", self.shards),
        ]

    async def create(self, request: Request) -> Response:
        body = await read_body(request, self._limits)
        settings = self._parsed(body, request.path_params["account"], None)
        await self._check_bucket(settings)
        description = await self._registry().create(
            request.path_params["account"], settings, self._code_version(settings)
        )
        return envelope(_rendered(description, request))

    async def list(self, request: Request) -> Response:
        page = read_number(request, "page", 1, _PAGE_MAX, CODE_INVALID_SETTINGS)
        per_page = read_number(request, "per_page", _PER_PAGE_DEFAULT, LIST_PER_PAGE_MAX, CODE_INVALID_SETTINGS)
        search = request.query_params.get("search", "")
        offset = (page - 1) * per_page
        found: Page = await self._registry().list(request.path_params["account"], search, offset, per_page)
        rendered = []
        for id in found.ids:
            try:
                rendered.append(_rendered(await self._coordinator(id).describe(), request))
            except NotFound:
                continue  # deleted since
        return envelope(
            rendered,
            results=rendered,
            result_info={
                "page": page,
                "per_page": per_page,
                "count": len(rendered),
                "total_count": found.total,
            },
        )

    async def get(self, request: Request) -> Response:
        coordinator = await self._coordinator_by_name(request)
        description: PipelineDescription = await coordinator.describe()
        shards: list[ShardDescription] = await coordinator.shards()
        return envelope({**_rendered(description, request), **_condition(shards)})

    async def update(self, request: Request) -> Response:
        body = await read_body(request, self._limits)
        coordinator = await self._coordinator_by_name(request)
        current: PipelineDescription = await coordinator.describe()
        settings = self._parsed(body, request.path_params["account"], current.settings)
        if settings.name != request.path_params["name"]:
            raise Invalid("name cannot be changed; delete the pipeline and create another.", code=CODE_INVALID_NAME)
        if settings.s3 != current.settings.s3 or settings.bucket != current.settings.bucket:
            await self._check_bucket(settings)
        return envelope(_rendered(await coordinator.update(settings, self._code_version(settings)), request))

    async def delete(self, request: Request) -> Response:
        coordinator = await self._coordinator_by_name(request)
        discard = request.query_params.get("discard", "false")
        if discard not in ("true", "false"):
            raise Invalid("discard must be true or false.", code=CODE_INVALID_SETTINGS)
        await coordinator.delete(discard=discard == "true")
        return envelope(None)

    async def deployments(self, request: Request) -> Response:
        coordinator = await self._coordinator_by_name(request)
        deployments: list[Deployment] = await coordinator.deployments()
        return envelope([_rendered_deployment(deployment) for deployment in deployments])

    async def shards(self, request: Request) -> Response:
        coordinator = await self._coordinator_by_name(request)
        shards: list[ShardDescription] = await coordinator.shards()
        return envelope([_rendered_shard(shard) for shard in shards])

    def _parsed(self, body: bytes, account: str, current: PipelineSettings | None) -> PipelineSettings:
        ports = self._runtime.ports

        def sealed(endpoint: str, credentials: S3Credentials, region: str, path_style: bool) -> S3Connection:
            return connect(ports.secrets, account, endpoint, credentials, region=region, path_style=path_style)

        return parse_settings(body, connect=sealed, transforms=self._transforms.names(), current=current)

    def _code_version(self, settings: PipelineSettings) -> str:
        return self._transforms.version(settings.transforms[0].name) if settings.transforms else ""

    async def _check_bucket(self, settings: PipelineSettings) -> None:
        """Say at once what is wrong with a key or a bucket. What cannot be asked now is believed."""
        if settings.s3 is None:
            return
        try:
            async with asyncio.timeout(BUCKET_CHECK_MS_MAX / 1000):
                await self._runtime.ports.s3.at(settings.s3).list(settings.bucket, limit=1)
        except (Forbidden, NotFound) as error:
            raise Invalid(f"destination cannot be used: {error.message}", code=CODE_INVALID_SETTINGS) from error
        except Unavailable as error:
            log.info(
                "bucket_not_checked", endpoint=settings.s3.endpoint, bucket=settings.bucket, error=error.message
            )

    def _registry(self) -> Stub:
        return self._runtime.namespace("Registry").get_by_name(REGISTRY)

    def _coordinator(self, id: str) -> Stub:
        return self._runtime.namespace("Coordinator").get_by_name(id)

    async def _coordinator_by_name(self, request: Request) -> Stub:
        return await coordinator_by_name(self._runtime, request)


async def coordinator_by_name(runtime: Runtime, request: Request) -> Stub:
    """The coordinator of the pipeline that the path names. Raises `NotFound`."""
    return runtime.namespace("Coordinator").get_by_name(await find_pipeline(runtime, request))


async def find_pipeline(runtime: Runtime, request: Request) -> str:
    """The id of the pipeline that the path names. Raises `NotFound`."""
    name = request.path_params["name"]
    check_name(name)
    registry = runtime.namespace("Registry").get_by_name(REGISTRY)
    id: str | None = await registry.find(request.path_params["account"], name)
    if id is None:
        raise NotFound(f"There is no pipeline named {name!r}.", code=CODE_UNKNOWN_PIPELINE)
    return id


def _rendered(pipeline: PipelineDescription, request: Request) -> dict[str, Any]:
    """A pipeline as Cloudflare's API shows it, and beside that what only ours has."""
    return {
        "id": pipeline.id,
        "name": pipeline.settings.name,
        "version": pipeline.version,
        # The address that this client reached us by is one that it can send records to.
        "endpoint": str(request.base_url.replace(path=f"/ingest/{pipeline.id}")),
        **_rendered_settings(pipeline.settings),
    }


def _rendered_settings(settings: PipelineSettings) -> dict[str, Any]:
    path = {"bucket": settings.bucket}
    if settings.prefix:
        path["prefix"] = settings.prefix
    if settings.filepath != FILEPATH_DEFAULT:
        path["filepath"] = settings.filepath
    if settings.filename != FILENAME_DEFAULT:
        path["filename"] = settings.filename
    rendered: dict[str, Any] = {
        "source": to_builtins(settings.source),
        "transforms": to_builtins(settings.transforms),
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": to_builtins(settings.batch),
            "compression": {"type": settings.compression},
            "path": path,
        },
    }
    if settings.partition_time is not None:
        rendered["destination"]["partition_time"] = to_builtins(settings.partition_time)
    if (s3 := settings.s3) is not None:
        # Without the keys, which are never shown.
        rendered["destination"]["credentials"] = {
            "endpoint": s3.endpoint,
            "region": s3.region,
            "path_style": s3.path_style,
        }
    if settings.shards is not None:
        rendered["metadata"] = {"shards": settings.shards}
    return rendered


def _condition(shards: list[ShardDescription]) -> dict[str, Any]:
    """Whether files get where they should, and what waits."""
    known = [shard.status for shard in shards if shard.status is not None]
    pauses = [status.pause for status in known if status.pause is not None]
    condition: dict[str, Any] = {
        "status": "paused" if pauses else "running",
        "backlog": {
            "records": sum(status.backlog_records for status in known),
            "bytes": sum(status.backlog_bytes for status in known),
            "oldest_at": rendered_time(min((s.oldest_ms for s in known if s.oldest_ms is not None), default=None)),
        },
        "shards": [_rendered_shard(shard) for shard in shards],
    }
    if pauses:
        first = min(pauses, key=lambda pause: pause.since_ms)
        condition["failure_reason"] = first.message
        condition["paused_since"] = rendered_time(first.since_ms)
    return condition


def _rendered_shard(shard: ShardDescription) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "name": shard.name,
        "version": shard.version,
        "state": shard.state,
        "executor": shard.slot,
        "reachable": shard.status is not None,
    }
    if (status := shard.status) is not None:
        rendered |= {
            "backlog": {
                "records": status.backlog_records,
                "bytes": status.backlog_bytes,
                "oldest_at": rendered_time(status.oldest_ms),
            },
            "failures": status.failures,
            "last_error": status.last_error or None,
            "retry_at": rendered_time(status.retry_ms),
            "paused": status.pause is not None,
        }
    return rendered


def _rendered_deployment(deployment: Deployment) -> dict[str, Any]:
    return {
        "version": deployment.version,
        "state": deployment.state,
        "created_at": rendered_time(deployment.created_ms),
        "drained_at": rendered_time(deployment.drained_ms),
        "shards": deployment.shards,
        "code_version": deployment.code_version or None,
        **_rendered_settings(deployment.settings),
    }


def rendered_time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
