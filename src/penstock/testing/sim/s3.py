"""Servers of the S3 protocol in the simulator: one for each endpoint, each with faults of its own."""

from __future__ import annotations

import hashlib
import posixpath

from penstock.base.clock import Clock
from penstock.base.rng import Rng
from penstock.storage.connection import S3Connection, open_credentials
from penstock.storage.disk import Disk
from penstock.storage.object_store import FolderStore, ObjectStore
from penstock.storage.offload import Offload
from penstock.storage.secrets import Secrets
from penstock.testing.sim.faulty_store import FaultyStore, StoreFaults


class SimS3:
    """The servers as a test sees them. Their buckets are folders below `root`, on the simulated disk."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._faults: dict[str, StoreFaults] = {}

    def faults(self, endpoint: str) -> StoreFaults:
        """What is wrong with the server at an endpoint; may be changed at any time."""
        return self._faults.setdefault(endpoint, StoreFaults())

    def root(self, endpoint: str) -> str:
        """The folder with the buckets of an endpoint in it."""
        return f"{self._root}/{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}/buckets"


class SimS3Stores:
    """Implements `S3Stores` for one executor."""

    def __init__(
        self, servers: SimS3, disk: Disk, offload: Offload, clock: Clock, rng: Rng, secrets: Secrets
    ) -> None:
        self._servers = servers
        self._disk = disk
        self._offload = offload
        self._clock = clock
        self._rng = rng
        self._secrets = secrets

    def at(self, connection: S3Connection) -> ObjectStore:
        open_credentials(self._secrets, connection)  # as the real ones do: a key sealed for another is noticed
        root = self._servers.root(connection.endpoint)
        folders = FolderStore(self._disk, self._offload, root, f"{posixpath.dirname(root)}/unfinished")
        return FaultyStore(folders, self._clock, self._rng, self._servers.faults(connection.endpoint))
