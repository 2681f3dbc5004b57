"""Changes settings of pipelines under load: each change is a new generation, and no record may notice."""

from __future__ import annotations

import asyncio
import copy
import http.client
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.s3 import ADMIN, READER, WRITER, WRONG

from penstock.storage.connection import S3Credentials

from .plan import Change, Setting
from .progress import Progress
from .server import READY_DEADLINE_S, ServerTree

_COMPRESSIONS = ("gzip", "zstd", "deflate", "none")
_SHARDS = (None, 1, 2, 3, 4)
_TRANSFORMS: tuple[list[dict[str, str]], ...] = ([], [{"name": "shaped"}])
_GOOD_KEYS = (WRITER, ADMIN)
#: One is refused when it is given, if the S3 server is there to be asked; the other may look, and store nothing.
_BAD_KEYS = (WRONG, READER)
#: The share of new keys that are bad; a good one follows after so long.
_BAD_KEY = 0.5
_BAD_KEY_S = 1.0
#: The server may be gone several times while a change is tried.
_DEADLINE_S = 2 * READY_DEADLINE_S

T = TypeVar("T")


@dataclass
class Settings:
    """The settings of one pipeline as they were stored last, and what they may become. An empty choice is none."""

    body: dict[str, Any]
    prefixes: tuple[str, ...]
    batches: tuple[dict[str, object], ...]
    transforms: bool = False
    #: Of the S3 server; empty for a folder.
    endpoint: str = ""
    key: S3Credentials = WRITER
    #: How many generations there must be.
    generations: int = 1
    #: A key is sealed anew each time, so that a change that was sent twice may be two.
    exact: bool = True

    @property
    def name(self) -> str:
        return str(self.body["name"])

    def can_change(self, setting: Setting) -> bool:
        match setting:
            case Setting.TRANSFORM:
                return self.transforms
            case Setting.KEY:
                return bool(self.endpoint)
            case _:
                return True

    def changed(self, change: Change) -> dict[str, Any]:
        """The body of the PUT."""
        body = copy.deepcopy(self.body)
        destination = body["destination"]
        match change.setting:
            case Setting.COMPRESSION:
                pick = _other(_COMPRESSIONS, destination["compression"]["type"], change.value)
                destination["compression"]["type"] = pick
            case Setting.PREFIX:
                destination["path"]["prefix"] = _other(self.prefixes, destination["path"]["prefix"], change.value)
            case Setting.BATCH:
                destination["batch"] = _other(self.batches, destination["batch"], change.value)
            case Setting.SHARDS:
                body["metadata"] = {"shards": _other(_SHARDS, body.get("metadata", {}).get("shards"), change.value)}
            case Setting.TRANSFORM:
                body["transforms"] = _other(_TRANSFORMS, body["transforms"], change.value)
            case Setting.KEY:
                raise AssertionError("a key is changed by itself")
        return body

    def with_key(self, key: S3Credentials) -> dict[str, Any]:
        body = copy.deepcopy(self.body)
        body["destination"]["credentials"] = {
            "endpoint": self.endpoint,
            "access_key_id": key.access_key_id,
            "secret_access_key": key.secret_access_key,
        }
        return body


@dataclass
class Changer:
    server: ServerTree
    settings: Sequence[Settings]
    violations: list[str] = field(default_factory=list)
    made: int = 0
    refused_keys: int = 0

    def __post_init__(self) -> None:
        self._wanted = asyncio.Event()
        self._sent = threading.Event()

    async def run(self, changes: Sequence[Change], kills: Progress) -> None:
        """Make the changes in order; a struck one when `wait_sent` asks for it."""
        self._loop = asyncio.get_running_loop()
        for change in changes:
            await kills.reached(change.after_kills)
            if change.struck:
                # If the one before took longer than its kill waits, that kill did not ask for it.
                await _first(self._wanted.wait(), kills.reached(change.after_kills + 1))
            else:
                await asyncio.sleep(change.delay_s)
            await self._make(change)

    def wait_sent(self, seconds_max: float) -> None:
        """Returns right before the next change is sent. Blocks, in another thread than the loop's."""
        self._sent.clear()
        self._loop.call_soon_threadsafe(self._wanted.set)
        self._sent.wait(seconds_max)
        self._loop.call_soon_threadsafe(self._wanted.clear)

    async def _make(self, change: Change) -> None:
        lanes = [lane for lane in self.settings if lane.can_change(change.setting)]
        lane = lanes[int(change.lane * len(lanes))]
        self.made += 1
        if change.setting is not Setting.KEY:
            body = lane.changed(change)
            if await self._put(lane, body) == 200:
                lane.body = body
                lane.generations += 1
            return
        lane.exact = False
        if change.value < _BAD_KEY:
            if (
                await self._put(lane, lane.with_key(_pick(_BAD_KEYS, change.value / _BAD_KEY)), allowed=(200, 400))
                != 200
            ):
                self.refused_keys += 1
            await asyncio.sleep(_BAD_KEY_S)
        lane.key = _other(_GOOD_KEYS, lane.key, change.value)
        if await self._put(lane, lane.with_key(lane.key)) == 200:
            lane.generations += 1

    async def _put(self, lane: Settings, body: dict[str, Any], allowed: tuple[int, ...] = (200,)) -> int | None:
        """Until it is answered with something else than 503; the status."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _DEADLINE_S
        while loop.time() < ends_at:
            try:
                status, answer = await asyncio.to_thread(self._send, lane.name, body)
            except (OSError, http.client.HTTPException):
                status, answer = 503, None
            if status in allowed:
                return status
            if status != 503:
                self.violations.append(f"{lane.name}: a change was answered with {status}: {answer}")
                return status
            await asyncio.sleep(0.05)
        self.violations.append(f"{lane.name}: a change was not answered within {_DEADLINE_S:.0f} s: {body}")
        return None

    def _send(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        self._sent.set()
        return self.server.control("PUT", f"/{name}", body)


async def _first(*waits: Coroutine[None, None, object]) -> None:
    """Until one of them is over."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _pick(of: Sequence[T], share: float) -> T:
    return of[int(share * len(of))]


def _other(of: Sequence[T], current: T, share: float) -> T:
    return _pick([one for one in of if one != current], share)
