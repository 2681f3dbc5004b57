"""`…/pipelines/{name}/verify`: proof, step by step, that each record is in exactly one file."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import BucketNotFound, Forbidden, Invalid
from penstock.http.control import Endpoint, envelope
from penstock.http.parameters import Flag, step_cursor
from penstock.http.pipelines import BASE, find_pipeline
from penstock.objects import Runtime
from penstock.pipelines.cursor import read_cursor, write_cursor
from penstock.pipelines.settings_body import CODE_INVALID_SETTINGS
from penstock.pipelines.verification import Problem, ShardCount
from penstock.pipelines.verifier import BucketCount, Verifier, VerifyCursor, VerifyStep

_DEEP = Flag("deep", "Read the files, too.", CODE_INVALID_SETTINGS)
_CURSOR = step_cursor()


class VerifyChecked(Struct, frozen=True):
    """Add up the counts of each shard over all steps."""

    shards: list[ShardCount]
    buckets: BucketCount


class Verification(Struct, frozen=True):
    """What one step found; `cursor` is null when nothing is left to look at."""

    checked: VerifyChecked
    problems: list[Problem]
    cursor: str | None


class VerificationRoutes:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._verifier = Verifier(runtime)
        self.endpoints = [
            Endpoint(
                *("GET", BASE + "/{name}/verify", "pipelines:read", self.verify_pipeline),
                tag="Pipelines",
                query=(_CURSOR, _DEEP),
                result=Verification,
            )
        ]

    async def verify_pipeline(self, request: Request) -> Response:
        """Verify a pipeline.

        Does one step of proving that each record is in exactly one file. A step is 200 segments or 5 seconds, and a
        file. A bucket that is not there, or refuses the key, is a 400; one that does not answer a 503.
        """
        id = await find_pipeline(self._runtime, request)
        deep, text = _DEEP.read(request), _CURSOR.read(request)
        cursor = read_cursor(text, VerifyCursor, CODE_INVALID_SETTINGS) if text else VerifyCursor()
        try:
            step = await self._verifier.step(request.path_params["account"], id, cursor, deep=deep)
        except (Forbidden, BucketNotFound) as error:
            raise unusable(error) from error
        return envelope(_answer(step))


def unusable(error: Forbidden | BucketNotFound) -> Invalid:
    """What a bucket refuses is no lack of rights towards us."""
    return Invalid(f"destination cannot be used: {error.message}", code=CODE_INVALID_SETTINGS)


def _answer(step: VerifyStep) -> Verification:
    cursor = write_cursor(step.cursor) if step.cursor is not None else None
    return Verification(VerifyChecked(step.shards, step.buckets), step.problems, cursor)
