"""`/client/v4/accounts/{account}/pipelines`: Cloudflare's legacy pipelines API."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import LIST_PER_PAGE_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body, read_number
from penstock.objects import Runtime, Stub
from penstock.pipelines.registry import REGISTRY, Page
from penstock.pipelines.settings import (
    CODE_INVALID_NAME,
    CODE_INVALID_SETTINGS,
    PipelineDescription,
    check_name,
    parse_settings,
)
from penstock.pipelines.stream_shard import CODE_UNKNOWN_PIPELINE

_BASE = "/client/v4/accounts/{account}/pipelines"
_PER_PAGE_DEFAULT = 20
_PAGE_MAX = 1_000_000


class PipelineRoutes:
    def __init__(self, runtime: Runtime, limits: Limits) -> None:
        self._runtime = runtime
        self._limits = limits
        self.endpoints = [
            Endpoint("POST", _BASE, "pipelines:write", self.create),
            Endpoint("GET", _BASE, "pipelines:read", self.list),
            Endpoint("GET", _BASE + "/{name}", "pipelines:read", self.get),
            Endpoint("PUT", _BASE + "/{name}", "pipelines:write", self.update),
            Endpoint("DELETE", _BASE + "/{name}", "pipelines:write", self.delete),
        ]

    async def create(self, request: Request) -> Response:
        settings = parse_settings(await read_body(request, self._limits))
        description = await self._registry().create(request.path_params["account"], settings)
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
        return envelope(_rendered(await coordinator.describe(), request))

    async def update(self, request: Request) -> Response:
        settings = parse_settings(await read_body(request, self._limits))
        coordinator = await self._coordinator_by_name(request)
        if settings.name != request.path_params["name"]:
            raise Invalid("name cannot be changed; delete the pipeline and create another.", code=CODE_INVALID_NAME)
        return envelope(_rendered(await coordinator.update(settings), request))

    async def delete(self, request: Request) -> Response:
        coordinator = await self._coordinator_by_name(request)
        await coordinator.delete()
        return envelope(None)

    def _registry(self) -> Stub:
        return self._runtime.namespace("Registry").get_by_name(REGISTRY)

    def _coordinator(self, id: str) -> Stub:
        return self._runtime.namespace("Coordinator").get_by_name(id)

    async def _coordinator_by_name(self, request: Request) -> Stub:
        name = request.path_params["name"]
        check_name(name)
        id = await self._registry().find(request.path_params["account"], name)
        if id is None:
            raise NotFound(f"There is no pipeline named {name!r}.", code=CODE_UNKNOWN_PIPELINE)
        return self._coordinator(id)


def _rendered(pipeline: PipelineDescription, request: Request) -> dict[str, Any]:
    settings = pipeline.settings
    path = {"bucket": settings.bucket}
    if settings.prefix:
        path["prefix"] = settings.prefix
    rendered: dict[str, Any] = {
        "id": pipeline.id,
        "name": settings.name,
        "version": pipeline.version,
        # The address that this client reached us by is one that it can send records to.
        "endpoint": str(request.base_url.replace(path=f"/ingest/{pipeline.id}")),
        "source": to_builtins(settings.source),
        "transforms": [],
        "destination": {
            "type": "r2",
            "format": "json",
            "batch": to_builtins(settings.batch),
            "compression": {"type": settings.compression},
            "path": path,
        },
    }
    if settings.shards is not None:
        rendered["metadata"] = {"shards": settings.shards}
    return rendered
