"""`…/pipelines/{name}/replay`: sends dead letters again, step by step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import BucketNotFound, Forbidden, Invalid, StorageFull
from penstock.base.limits import CURSOR_LENGTH_MAX, REPLAY_FILES_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body
from penstock.http.pipelines import BASE, find_pipeline
from penstock.http.verification import unusable
from penstock.objects import Runtime
from penstock.pipelines.cursor import read_cursor, write_cursor
from penstock.pipelines.replay import ReplayCursor, Replayer, ReplayRequest, ReplayStep, Skipped
from penstock.pipelines.settings_body import CODE_INVALID_SETTINGS

_FIELDS = (
    "since must be a time with an offset, like '2026-11-23T00:00:00Z'; reason a text; dry_run true or false; "
    f"limit a whole number from 1 to {REPLAY_FILES_MAX}; cursor what the call before gave"
)


class ReplayBody(Struct, forbid_unknown_fields=True):
    since: Annotated[
        datetime,
        Meta(
            tz=True,
            description="Dead letters of files that were fixed since then; with an offset.",
            examples=["2026-11-23T00:00:00Z"],
        ),
    ]
    reason: Annotated[str | None, Meta(description="Only records that are dead by this reason; null: all.")] = None
    dry_run: Annotated[bool, Meta(description="Say what would be sent, and send nothing.")] = False
    limit: Annotated[int, Meta(ge=1, le=REPLAY_FILES_MAX, description="Files of this step.")] = REPLAY_FILES_MAX
    cursor: Annotated[
        str,
        Meta(
            description="What the step before gave; from the beginning without it.",
            extra_json_schema={"maxLength": CURSOR_LENGTH_MAX},
        ),
    ] = ""


class Replayed(Struct, frozen=True):
    """What was sent; `reasons` are its records by the reason why they were dead."""

    files: int
    records: int
    reasons: dict[str, int]


class Replay(Struct, frozen=True):
    """What one step did; `cursor` is null when nothing is left to send. Where the pipeline takes no more for now,
    `waits_for` says why, and `retry_after_s` when to go on."""

    replayed: Replayed
    skipped: list[Skipped]
    cursor: str | None
    retry_after_s: int | UnsetType = UNSET
    waits_for: str | UnsetType = UNSET


class ReplayRoutes:
    def __init__(self, replayer: Replayer, runtime: Runtime, limits: Limits) -> None:
        self._replayer = replayer
        self._runtime = runtime
        self._limits = limits
        self.endpoints = [
            Endpoint(
                *("POST", BASE + "/{name}/replay", "pipelines:write", self.replay_dead_letters),
                tag="Pipelines",
                body=ReplayBody,
                result=Replay,
                errors=(StorageFull,),
            )
        ]

    async def replay_dead_letters(self, request: Request) -> Response:
        """Replay a pipeline's dead letters.

        Does one step of sending them again. A step is 100 files or 5 seconds.
        """
        id = await find_pipeline(self._runtime, request)
        body = _parsed(await read_body(request, self._limits))
        cursor = read_cursor(body.cursor, ReplayCursor, CODE_INVALID_SETTINGS) if body.cursor else None
        asked = ReplayRequest(_ms(body.since), body.reason, body.limit, body.dry_run)
        try:
            step = await self._replayer.step(id, asked, cursor)
        except (Forbidden, BucketNotFound) as error:
            raise unusable(error) from error
        return envelope(_answer(step))


def _parsed(body: bytes) -> ReplayBody:
    try:
        return msgspec.json.decode(body, type=ReplayBody)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        problem = str(error)[:300].replace("`", "")
        raise Invalid(
            f"The body must be a JSON object ({problem}): {_FIELDS}.", code=CODE_INVALID_SETTINGS
        ) from error


def _ms(time: datetime) -> int:
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def _answer(step: ReplayStep) -> Replay:
    return Replay(
        Replayed(step.files, step.records, step.reasons),
        step.skipped,
        write_cursor(step.cursor) if step.cursor is not None else None,
        step.retry_after_s if step.retry_after_s is not None else UNSET,
        step.waits_for if step.retry_after_s is not None else UNSET,
    )
