"""`…/pipelines/{name}/replay`: sends dead letters again, step by step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import BucketNotFound, Forbidden, Invalid
from penstock.base.limits import REPLAY_FILES_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body
from penstock.http.pipelines import BASE, find_pipeline
from penstock.http.verification import unusable
from penstock.objects import Runtime
from penstock.pipelines.cursor import read_cursor, write_cursor
from penstock.pipelines.replay import ReplayCursor, Replayer, ReplayRequest, ReplayStep
from penstock.pipelines.settings_body import CODE_INVALID_SETTINGS

_FIELDS = (
    "since must be a time with an offset, like '2026-11-23T00:00:00Z'; reason a text; dry_run true or false; "
    f"limit a whole number from 1 to {REPLAY_FILES_MAX}; cursor what the call before gave"
)


class _Body(Struct, forbid_unknown_fields=True):
    since: Annotated[datetime, Meta(tz=True)]
    reason: str | None = None
    dry_run: bool = False
    limit: Annotated[int, Meta(ge=1, le=REPLAY_FILES_MAX)] = REPLAY_FILES_MAX
    cursor: str = ""


class ReplayRoutes:
    def __init__(self, replayer: Replayer, runtime: Runtime, limits: Limits) -> None:
        self._replayer = replayer
        self._runtime = runtime
        self._limits = limits
        self.endpoints = [Endpoint("POST", BASE + "/{name}/replay", "pipelines:write", self.replay)]

    async def replay(self, request: Request) -> Response:
        id = await find_pipeline(self._runtime, request)
        body = _parsed(await read_body(request, self._limits))
        cursor = read_cursor(body.cursor, ReplayCursor, CODE_INVALID_SETTINGS) if body.cursor else None
        asked = ReplayRequest(_ms(body.since), body.reason, body.limit, body.dry_run)
        try:
            step = await self._replayer.step(id, asked, cursor)
        except (Forbidden, BucketNotFound) as error:
            raise unusable(error) from error
        return envelope(_rendered(step))


def _parsed(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        problem = str(error)[:300].replace("`", "")
        raise Invalid(
            f"The body must be a JSON object ({problem}): {_FIELDS}.", code=CODE_INVALID_SETTINGS
        ) from error


def _ms(time: datetime) -> int:
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def _rendered(step: ReplayStep) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "replayed": {"files": step.files, "records": step.records, "reasons": step.reasons},
        "skipped": to_builtins(step.skipped),
        "cursor": write_cursor(step.cursor) if step.cursor is not None else None,
    }
    if step.retry_after_s is not None:
        rendered |= {"retry_after_s": step.retry_after_s, "waits_for": step.waits_for}
    return rendered
