"""Reads a bucket as a user's job would: while it is being written.

A file that can be seen is complete and never changes; nothing else is ever in the bucket.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import time
import zlib
from pathlib import Path

from .ledger import Tally

_HOUR = r"event_date=\d{4}-\d\d-\d\d/hr=\d\d"
_ULID = "[0-9A-HJKMNP-TV-Z]{26}"


class Bucket:
    """One pipeline's files, `prefix` either empty or ended by a slash."""

    def __init__(self, folder: Path, *, prefix: str = "", gzipped: bool = True) -> None:
        self._folder = folder
        self._prefix = prefix
        self._gzipped = gzipped
        self._name = re.compile(rf"{re.escape(prefix)}{_HOUR}/{_ULID}\.json{'.gz' if gzipped else ''}")
        self._digests: dict[str, bytes] = {}
        self.tally = Tally()
        self.violations: list[str] = []

    async def watch(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.to_thread(self.read_new_files)
            await asyncio.sleep(0.25)

    def wait_for_new_file(self, seconds_max: float) -> None:
        """Returns within about a millisecond of the appearance of the next file. Blocks."""
        folders = sorted(self._folder.glob(f"{self._prefix}event_date=*/hr=*"))
        if not folders:
            return
        before, ends_at = folders[-1].stat().st_mtime_ns, time.monotonic() + seconds_max
        while folders[-1].stat().st_mtime_ns == before and time.monotonic() < ends_at:
            time.sleep(0.0005)

    def read_new_files(self) -> None:
        for path in self._files():
            name = str(path.relative_to(self._folder))
            if name not in self._digests and (content := self._content(name)) is not None:
                self._digests[name] = hashlib.sha256(content).digest()
                self.tally.add_file(name, content.splitlines())

    def check_unchanged(self) -> list[str]:
        """Read everything again: which files have another content than at first sight, or are gone."""
        names = {str(path.relative_to(self._folder)) for path in self._files()}
        gone = [f"{name} has disappeared" for name in self._digests if name not in names]
        changed = [
            f"{name} has changed"
            for name in names & self._digests.keys()
            if hashlib.sha256(self._content(name) or b"").digest() != self._digests[name]
        ]
        return gone + changed

    def __len__(self) -> int:
        return len(self._digests)

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.rglob("*") if path.is_file()]

    def _content(self, name: str) -> bytes | None:
        if not self._name.fullmatch(name):
            self._complain(f"{name} is not a file that belongs into a bucket")
            return None
        try:
            content = (self._folder / name).read_bytes()
            return gzip.decompress(content) if self._gzipped else content
        except (EOFError, OSError, zlib.error) as error:
            self._complain(f"{name} was visible before it was complete ({error})")
            return None

    def _complain(self, violation: str) -> None:
        if violation not in self.violations:
            self.violations.append(violation)
