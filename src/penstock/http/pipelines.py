"""`/client/v4/accounts/{account}/pipelines`: Cloudflare's legacy pipelines API."""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import Conflict, Forbidden, Invalid, NotFound, StorageFull, Unavailable
from penstock.base.limits import BUCKET_CHECK_MS_MAX, PIPELINE_NAME_LENGTH_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body
from penstock.http.parameters import Flag, PageInfo, Paging, Text
from penstock.http.pipeline_answers import (
    DeploymentAnswer,
    Pipeline,
    PipelineDetails,
    Shard,
    deployment_answer,
    pipeline_answer,
    pipeline_details,
    shard_answer,
)
from penstock.objects import Runtime, Stub
from penstock.pipelines.coordinator import Deployment, ShardDescription
from penstock.pipelines.pipeline_body import PipelineBody
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

_PAGING = Paging(CODE_INVALID_SETTINGS)
_SEARCH = Text("search", "Only pipelines whose name begins so.", PIPELINE_NAME_LENGTH_MAX)
_DISCARD = Flag("discard", "Lose the records that are in no file yet.", CODE_INVALID_SETTINGS)


class PipelineRoutes:
    def __init__(self, runtime: Runtime, transforms: Transforms, limits: Limits) -> None:
        self._runtime = runtime
        self._transforms = transforms
        self._limits = limits
        one = BASE + "/{name}"
        self.endpoints = [
            Endpoint(
                *("POST", BASE, "pipelines:write", self.create_pipeline),
                tag="Pipelines",
                body=PipelineBody,
                result=Pipeline,
                errors=(Conflict, StorageFull),
            ),
            Endpoint(
                *("GET", BASE, "pipelines:read", self.list_pipelines),
                tag="Pipelines",
                query=(_PAGING, _SEARCH),
                result=list[Pipeline],
                info=PageInfo,
            ),
            Endpoint(
                *("GET", one, "pipelines:read", self.get_pipeline),
                tag="Pipelines",
                result=PipelineDetails,
            ),
            Endpoint(
                *("PUT", one, "pipelines:write", self.update_pipeline),
                tag="Pipelines",
                body=PipelineBody,
                result=Pipeline,
                errors=(Conflict, StorageFull),
            ),
            Endpoint(
                *("DELETE", one, "pipelines:write", self.delete_pipeline),
                tag="Pipelines",
                query=(_DISCARD,),
                errors=(StorageFull,),
            ),
            Endpoint(
                *("GET", one + "/deployments", "pipelines:read", self.list_deployments),
                tag="Pipelines",
                result=list[DeploymentAnswer],
            ),
            Endpoint(
                *("GET", one + "/shards", "pipelines:read", self.list_shards),
                tag="Pipelines",
                result=list[Shard],
            ),
        ]

    async def create_pipeline(self, request: Request) -> Response:
        """Make a pipeline.

        Only `name` and `destination.path.bucket` are required; unknown fields are refused. An attempt that was cut
        short can be made again. With `destination.credentials` the bucket is at a server of the S3 protocol, and is
        listed first: 400 if that server refuses the key or has no such bucket.
        """
        body = await read_body(request, self._limits)
        settings = self._parsed(body, request.path_params["account"], None)
        await self._check_bucket(settings)
        description = await self._registry().create(
            request.path_params["account"], settings, self._code_version(settings)
        )
        return envelope(_answer(description, request))

    async def list_pipelines(self, request: Request) -> Response:
        """List pipelines.

        They come in the order of their names. `results` is the same as `result`.
        """
        page, per_page = _PAGING.read(request)
        search = _SEARCH.read(request) or ""
        offset = (page - 1) * per_page
        found: Page = await self._registry().list(request.path_params["account"], search, offset, per_page)
        rendered = []
        for id in found.ids:
            try:
                rendered.append(_answer(await self._coordinator(id).describe(), request))
            except NotFound:
                continue  # deleted since
        info = PageInfo(page, per_page, len(rendered), found.total)
        return envelope(rendered, results=rendered, result_info=info)

    async def get_pipeline(self, request: Request) -> Response:
        """Get a pipeline.

        Its settings, and how it is. `status` is `paused` while its bucket refuses the key or is not there, or a
        transform is missing; then `failure_reason` says what to put right. `backlog` is what is stored and in no
        file yet.
        """
        coordinator = await self._coordinator_by_name(request)
        description: PipelineDescription = await coordinator.describe()
        shards: list[ShardDescription] = await coordinator.shards()
        return envelope(pipeline_details(description, shards, _endpoint(description.id, request)))

    async def update_pipeline(self, request: Request) -> Response:
        """Replace a pipeline's settings.

        What is left out gets its default. Only `destination.credentials` stays when it is left out, and becomes a
        local folder with `null`; with the same `endpoint` and no key, the key that there is stays. The body may be
        what a GET answered. The name cannot change. Records that came before go where the settings said that they
        came under.
        """
        body = await read_body(request, self._limits)
        coordinator = await self._coordinator_by_name(request)
        current: PipelineDescription = await coordinator.describe()
        settings = self._parsed(body, request.path_params["account"], current.settings)
        if settings.name != request.path_params["name"]:
            raise Invalid("name cannot be changed; delete the pipeline and create another.", code=CODE_INVALID_NAME)
        if settings.s3 != current.settings.s3 or settings.bucket != current.settings.bucket:
            await self._check_bucket(settings)
        return envelope(_answer(await coordinator.update(settings, self._code_version(settings)), request))

    async def delete_pipeline(self, request: Request) -> Response:
        """Delete a pipeline.

        Its endpoint closes. Records that wait are delivered at once, also after the answer. Files stay.
        """
        coordinator = await self._coordinator_by_name(request)
        await coordinator.delete(discard=_DISCARD.read(request))
        return envelope(None)

    async def list_deployments(self, request: Request) -> Response:
        """List a pipeline's versions.

        The newest comes first. Each change of settings makes a version with shards of its own. `code_version` is
        that of the application's code when the version was made, null without transforms.
        """
        coordinator = await self._coordinator_by_name(request)
        deployments: list[Deployment] = await coordinator.deployments()
        return envelope([deployment_answer(deployment) for deployment in deployments])

    async def list_shards(self, request: Request) -> Response:
        """List a pipeline's shards.

        With what waits in them. If a shard's executor does not answer, `reachable` is false and all that follows is
        left out.
        """
        coordinator = await self._coordinator_by_name(request)
        shards: list[ShardDescription] = await coordinator.shards()
        return envelope([shard_answer(shard) for shard in shards])

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


def _answer(pipeline: PipelineDescription, request: Request) -> Pipeline:
    return pipeline_answer(pipeline, _endpoint(pipeline.id, request))


def _endpoint(id: str, request: Request) -> str:
    """The address that this client reached us by is one that it can send records to."""
    return str(request.base_url.replace(path=f"/ingest/{id}"))
