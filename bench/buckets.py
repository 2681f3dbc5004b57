"""Where files land, as a reader of them sees it: a folder of this machine, or a bucket of an S3 server.

The S3 server is the tests' own (`tests/s3.py`: SeaweedFS), on the same cores and the same disk as what is measured:
figures with it are of a whole machine that does both, and say little about a bucket elsewhere.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.store import S3Store
from tests.s3 import WRITER, S3Server, weed

KINDS = ("folder", "s3")


class Bucket(Protocol):
    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        ...

    @property
    def name(self) -> str: ...

    @property
    def credentials(self) -> dict[str, Any] | None:
        """What a pipeline's settings say of it, beside its name."""
        ...

    def list_keys(self) -> list[str]:
        """Of the files that a reader sees now, dead letters apart."""
        ...

    def read(self, key: str) -> bytes: ...


class Folder:
    """A bucket in a server's data directory."""

    kind = "folder"
    credentials = None

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.path = data / "buckets" / name

    def list_keys(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self.path):
            found += [os.path.join(folder, file) for file in files]
        return [key for key in found if "/_dead/" not in key]

    def read(self, key: str) -> bytes:
        return Path(key).read_bytes()


class Remote:
    """A bucket of an S3 server. Made here, if it is not there."""

    kind = "s3"

    def __init__(self, server: S3Server, name: str) -> None:
        self.name = server.make_bucket(name)
        self.credentials = {
            "endpoint": server.endpoint,
            "access_key_id": WRITER.access_key_id,
            "secret_access_key": WRITER.secret_access_key,
        }
        self._store = S3Store(
            name,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=WRITER.access_key_id,
            secret_access_key=WRITER.secret_access_key,
            client_options={"allow_http": True},
        )

    def list_keys(self) -> list[str]:
        found = (entry["path"] for page in obstore.list(self._store, chunk_size=1_000) for entry in page)
        return [key for key in found if "_dead/" not in key]

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())


class Counted:
    """The records of a bucket; each file is read once. Files do not change."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        #: By key: (records, bytes as they are stored).
        self._files: dict[str, tuple[int, int]] = {}

    def look(self) -> dict[str, tuple[int, int]]:
        for key in self._bucket.list_keys():
            if key not in self._files:
                content = self._bucket.read(key)
                self._files[key] = gzip.decompress(content).count(b"\n"), len(content)
        return self._files


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def kinds_possible() -> tuple[str, ...]:
    """Without S3 where the platform has no SeaweedFS."""
    return KINDS if weed() is not None else KINDS[:1]
