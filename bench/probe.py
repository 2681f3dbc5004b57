"""Single records at a steady pace, and when each could be seen: latencies as a quiet user has them.

The pace does not depend on the answers (an open loop): a slow answer delays no other request, and is not hidden by
requests that were never made.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import decompress

import aiohttp

from bench.buckets import Bucket
from bench.ticker import every

_TIMEOUT_S = 30


@dataclass(slots=True)
class Sent:
    """One request with one record. Times are of `time.monotonic`, in seconds."""

    record: str
    sent_s: float
    #: None if it was not answered with 200.
    ok_s: float | None = None


async def send(urls: Sequence[str], *, per_s: float, seconds: float, name: str) -> list[Sent]:
    """`per_s` records a second to each of `urls`, evenly over time. `name` is of this probe: it makes its records
    different from those of others."""
    sent: list[Sent] = []
    body = "".join(f',"{key}":"{"x" * 40}"' for key in "ab")
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            headers={"Content-Type": "application/json"},
        ) as session,
        asyncio.TaskGroup() as tasks,
    ):
        started = time.monotonic()
        for number in range(max(1, round(per_s * seconds)) * len(urls)):
            due_s = started + number / (per_s * len(urls))
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            one = Sent(f"{name}-{number}", time.monotonic())
            sent.append(one)
            data = f'[{{"probe":"{one.record}"{body}}}]'.encode()
            tasks.create_task(_send(session, urls[number % len(urls)], data, one))
    return sent


async def _send(session: aiohttp.ClientSession, url: str, data: bytes, one: Sent) -> None:
    try:
        async with session.post(url, data=data) as answer:
            await answer.read()
            if answer.status == 200:
                one.ok_s = time.monotonic()
    except (aiohttp.ClientError, TimeoutError):
        return  # counted by its missing `ok_s`


class Watch:
    """When each file of a bucket was first seen: at the latest one look after it could be."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.seen_s: dict[str, float] = {}
        self.looks = 0

    def look(self) -> None:
        keys = self._bucket.list_keys()
        now = time.monotonic()
        self.looks += 1
        for key in keys:
            self.seen_s.setdefault(key, now)

    def records(self) -> list[list[tuple[str, float]]]:
        """For each file, its probes and when they were seen."""
        return [
            [(json.loads(line)["probe"], seen_s) for line in decompress(self._bucket.read(key)).splitlines()]
            for key, seen_s in self.seen_s.items()
        ]


@contextmanager
def watched(bucket: Bucket, every_s: float) -> Iterator[Watch]:
    """Looks until the end of the block."""
    watch = Watch(bucket)
    with every(every_s, watch.look):
        yield watch
