"""`…/pipelines/{name}/verify`: proof, step by step, that each record is in exactly one file."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import BucketNotFound, Forbidden, Invalid
from penstock.http.control import Endpoint, envelope
from penstock.http.pipelines import BASE, find_pipeline
from penstock.objects import Runtime
from penstock.pipelines.cursor import read_cursor, write_cursor
from penstock.pipelines.settings_body import CODE_INVALID_SETTINGS
from penstock.pipelines.verifier import Verifier, VerifyCursor, VerifyStep


class VerificationRoutes:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._verifier = Verifier(runtime)
        self.endpoints = [Endpoint("GET", BASE + "/{name}/verify", "pipelines:read", self.verify)]

    async def verify(self, request: Request) -> Response:
        id = await find_pipeline(self._runtime, request)
        deep = request.query_params.get("deep", "false")
        if deep not in ("true", "false"):
            raise Invalid("deep must be true or false.", code=CODE_INVALID_SETTINGS)
        text = request.query_params.get("cursor", "")
        cursor = read_cursor(text, VerifyCursor, CODE_INVALID_SETTINGS) if text else VerifyCursor()
        try:
            step = await self._verifier.step(request.path_params["account"], id, cursor, deep=deep == "true")
        except (Forbidden, BucketNotFound) as error:
            raise unusable(error) from error
        return envelope(_rendered(step))


def unusable(error: Forbidden | BucketNotFound) -> Invalid:
    """What a bucket refuses is no lack of rights towards us."""
    return Invalid(f"destination cannot be used: {error.message}", code=CODE_INVALID_SETTINGS)


def _rendered(step: VerifyStep) -> dict[str, Any]:
    return {
        "checked": {"shards": to_builtins(step.shards), "buckets": to_builtins(step.buckets)},
        "problems": to_builtins(step.problems),
        "cursor": write_cursor(step.cursor) if step.cursor is not None else None,
    }
