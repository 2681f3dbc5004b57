"""Reads a bucket as a user's job would: while it is being written.

A file that can be seen is complete and never changes; nothing else is ever in the bucket. What is read here is the
test's own: none of the server's code has a part in it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from .application import REFUSED_EACH
from .ledger import Tally

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_NAME = re.compile(
    r"(?:(?P<prefix>.+?)/)??(?P<dead>_dead/)?event_date=(?P<date>\d{4}-\d\d-\d\d)/hr=(?P<hour>\d\d)/"
    r"[0-9A-HJKMNP-TV-Z]{26}(?P<extension>\.json(?:\.gz|\.zst|\.deflate)?)"
)
_READ: dict[str, Callable[[bytes], bytes]] = {
    ".json": bytes,
    ".json.gz": gzip.decompress,
    ".json.zst": zstd.decompress,
    ".json.deflate": zlib.decompress,
}


class Unreachable(Exception):
    """The bucket cannot be read now."""


class Files(Protocol):
    def names(self) -> set[str]:
        """Blocks. Raises `Unreachable`."""
        ...

    def read(self, name: str) -> bytes:
        """Blocks. Raises `Unreachable`, and FileNotFoundError."""
        ...


class Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> set[str]:
        return {str(path.relative_to(self._path)) for path in self._path.rglob("*") if path.is_file()}

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def wait_for_new_file(self, seconds_max: float) -> None:
        """Returns within some milliseconds of the appearance of the next file. Blocks."""
        folders = list(self._path.rglob("hr=*"))
        before, ends_at = _last_change(folders), time.monotonic() + seconds_max
        while _last_change(folders) == before and time.monotonic() < ends_at:
            time.sleep(0.0005)


def _last_change(folders: list[Path]) -> int:
    return max((folder.stat().st_mtime_ns for folder in folders), default=0)


class S3Bucket:
    def __init__(self, endpoint: str, bucket: str, key: str, secret: str) -> None:
        self._store = S3Store(
            bucket,
            endpoint=endpoint,
            access_key_id=key,
            secret_access_key=secret,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=10)},
        )

    def names(self) -> set[str]:
        try:
            return {meta["path"] for page in self._store.list() for meta in page}
        except (BaseError, OSError) as error:
            raise Unreachable from error

    def read(self, name: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise Unreachable from error


class Bucket:
    """One pipeline's files. `prefixes` are those that it ever has; with `by_time` a record's hour is that of its
    own time, not of its arrival."""

    def __init__(self, files: Files, prefixes: tuple[str, ...] = ("",), *, by_time: bool = False) -> None:
        self._files = files
        self._prefixes = prefixes
        self._by_time = by_time
        self._digests: dict[str, bytes] = {}
        self.tally = Tally()
        #: Records in dead-letter files, by reason.
        self.dead: Counter[str] = Counter()
        self.records = 0
        self.violations: list[str] = []

    async def watch(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.to_thread(self.read_new_files)
            await asyncio.sleep(0.25)

    def read_new_files(self) -> bool:
        """Whether the bucket could be read. Blocks."""
        try:
            for name in sorted(self._files.names() - self._digests.keys()):
                content = self._files.read(name)
                self._digests[name] = hashlib.sha256(content).digest()
                self._take(name, content)
        except Unreachable:
            return False
        return True

    def check_unchanged(self) -> list[str]:
        """Read everything again: which files have another content than at first sight, or are gone."""
        names = self._files.names()
        gone = [f"{name} has disappeared" for name in self._digests if name not in names]
        changed = [
            f"{name} has changed"
            for name in names & self._digests.keys()
            if hashlib.sha256(self._files.read(name)).digest() != self._digests[name]
        ]
        return gone + changed

    def __len__(self) -> int:
        return len(self._digests)

    def _take(self, name: str, content: bytes) -> None:
        match = _NAME.fullmatch(name)
        if match is None or (match["prefix"] or "") not in self._prefixes:
            self.violations.append(f"{name} is not a file that belongs into a bucket")
            return
        try:
            lines = _READ[match["extension"]](content).splitlines()
        except (EOFError, OSError, zlib.error, zstd.ZstdError) as error:
            self.violations.append(f"{name} was visible before it was complete ({error})")
            return
        self.records += len(lines)
        found = list(self._dead(name, lines) if match["dead"] else self._shaped(name, lines))
        self.tally.add_file(name, found)
        if self._by_time and not match["dead"]:
            self._check_hour(name, f"{match['date']} {match['hour']}", found)

    def _dead(self, name: str, lines: list[bytes]) -> Iterator[bytes]:
        """The records as they came."""
        for line in lines:
            try:
                letter = json.loads(line)
                reason, record = letter["reason"], letter["record"]
                wanted = record["sequence"] % REFUSED_EACH == 0
            except (ValueError, KeyError, TypeError):
                self.violations.append(f"{name} has a line that is no dead letter: {line[:300]!r}")
                continue
            self.dead[reason] += 1
            if (reason, wanted) != ("error", True):
                self.violations.append(f"{name} has a record that is not to be refused: {line[:300]!r}")
            yield json.dumps(record).encode()

    def _shaped(self, name: str, lines: list[bytes]) -> Iterator[bytes]:
        """The records without the transform's mark."""
        for line in lines:
            if b'"shaped"' not in line:
                yield line
                continue
            record: dict[str, Any] = json.loads(line)
            if record.pop("shaped") is not True or record["sequence"] % REFUSED_EACH == 0:
                self.violations.append(f"{name} has a record that the transform refuses: {line[:300]!r}")
            yield json.dumps(record).encode()

    def _check_hour(self, name: str, hour: str, lines: list[bytes]) -> None:
        for line in lines:
            at = datetime.fromtimestamp(json.loads(line)["at"], UTC)
            if f"{at:%Y-%m-%d %H}" != hour:
                self.violations.append(f"{name} has a record of another hour: {line[:300]!r}")
                return
