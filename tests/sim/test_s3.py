"""Buckets elsewhere, in the simulator: each server with faults of its own."""

from __future__ import annotations

import pytest

from penstock.base.errors import BucketNotFound, Forbidden, PenstockError, Unavailable
from penstock.base.rng import seeded_rng
from penstock.objects import DurableObject
from penstock.server.node import Node
from penstock.storage.connection import S3Connection, S3Credentials, connect
from penstock.storage.secrets import Secrets
from penstock.testing.sim.loop import VirtualLoop, run_virtual
from penstock.testing.sim.machine import SECRET_KEY, MachineSettings, SimMachine

SECRETS = Secrets([SECRET_KEY], seeded_rng(1))
ONE, OTHER = (
    connect(SECRETS, "p", f"https://{name}.example", S3Credentials("id", "secret")) for name in ("one", "other")
)


class Courier(DurableObject[None]):
    async def deliver(self, connection: S3Connection | None, key: str) -> int:
        return await self.ctx.buckets.at(connection).put("bucket", key, lambda: [key.encode()])


async def deliver(machine: SimMachine, connection: S3Connection | None, key: str) -> int:
    async def work(node: Node) -> int:
        result: int = await node.runtime.namespace("Courier").get_by_name("c").deliver(connection, key)
        return result

    return await machine.run(0, work)


def test_E1_each_server_has_its_own_buckets_and_its_own_faults() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with SimMachine(loop, 1, MachineSettings(executors=1, classes=[Courier])) as machine:
            await deliver(machine, None, "here")
            await deliver(machine, ONE, "at one")
            await deliver(machine, OTHER, "at other")
            assert machine.bucket("bucket") == {"here": b"here"}
            assert machine.bucket("bucket", ONE.endpoint) == {"at one": b"at one"}
            assert machine.bucket("bucket", OTHER.endpoint) == {"at other": b"at other"}
            faults = machine.s3.faults(ONE.endpoint)
            kinds: list[tuple[str, type[PenstockError]]] = [
                ("outage", Unavailable),
                ("forbidden", Forbidden),
                ("bucketless", BucketNotFound),
            ]
            for fault, kind in kinds:
                setattr(faults, fault, True)
                with pytest.raises(PenstockError) as caught:
                    await deliver(machine, ONE, fault)
                assert type(caught.value) is kind
                await deliver(machine, OTHER, fault)
                setattr(faults, fault, False)
                await deliver(machine, ONE, fault)
            assert sorted(machine.bucket("bucket", ONE.endpoint)) == ["at one", "bucketless", "forbidden", "outage"]

    run_virtual(main)
