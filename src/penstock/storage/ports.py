"""The set of ports that a process is built on: the one argument that makes it real or simulated."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.base.clock import Clock
from penstock.base.rng import Rng
from penstock.storage.disk import Disk
from penstock.storage.object_store import NoS3, ObjectStore, S3Stores
from penstock.storage.offload import Offload
from penstock.storage.relay import Relay
from penstock.storage.secrets import Secrets
from penstock.storage.transport import Transport


@dataclass(frozen=True, slots=True)
class Ports:
    clock: Clock
    rng: Rng
    disk: Disk
    offload: Offload
    relay: Relay
    transport: Transport
    #: Folders of this machine.
    buckets: ObjectStore
    s3: S3Stores = field(default_factory=NoS3)
    #: For what is stored and must not be read from there; refuses, unless given.
    secrets: Secrets = field(default_factory=lambda: Secrets(()))
