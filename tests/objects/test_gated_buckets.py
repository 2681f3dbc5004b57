"""Buckets behind the output gate, on this machine and elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from penstock.base.errors import Invalid, Unavailable
from penstock.base.rng import seeded_rng
from penstock.objects.buckets import GatedBuckets
from penstock.storage.connection import S3Connection, S3Credentials, connect
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore, NoS3, ObjectStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.secrets import Secrets, new_secret_key

BUCKET = "bucket"
SECRETS = Secrets([new_secret_key(seeded_rng(1))], seeded_rng(2))
ELSEWHERE = connect(SECRETS, "p", "https://s3.example", S3Credentials("id", "secret"))


class Elsewhere:
    """Implements `S3Stores` by one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def at(self, connection: S3Connection) -> ObjectStore:
        assert connection == ELSEWHERE
        return self._store


@pytest.mark.parametrize("connection", [None, ELSEWHERE], ids=["here", "elsewhere"])
def test_nothing_changes_in_a_bucket_before_what_was_written_is_durable(
    tmp_path_factory: pytest.TempPathFactory, connection: S3Connection | None
) -> None:
    async def main() -> None:
        offload = Threads()
        here, elsewhere = (
            FolderStore(OsDisk(), offload, str(tmp_path_factory.mktemp("b")), str(tmp_path_factory.mktemp("u")))
            for _ in range(2)
        )
        target, other = (here, elsewhere) if connection is None else (elsewhere, here)
        durable = asyncio.Event()

        async def wait_durable() -> None:
            await durable.wait()

        gated = GatedBuckets(here, Elsewhere(elsewhere), wait_durable).at(connection)
        await target.put(BUCKET, "old", lambda: [b"old"])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(gated.put(BUCKET, "new", lambda: [b"new"]))
            tasks.create_task(gated.delete(BUCKET, "old"))
            looking = tasks.create_task(gated.get(BUCKET, "old"))
            for _ in range(20):
                assert [info.key for info in await target.list(BUCKET)] == ["old"]
            assert not looking.done(), "what is asked for can be seen, too"
            looking.cancel()
            durable.set()
        assert [info.key for info in await target.list(BUCKET)] == ["new"]
        assert await gated.head(BUCKET, "old") is None
        assert [piece async for piece in gated.read(BUCKET, "new")] == [b"new"]
        assert await other.list(BUCKET) == []
        offload.close()

    asyncio.run(main())


def test_a_process_without_s3_and_without_a_secret_key_says_so() -> None:
    with pytest.raises(Invalid, match=r"https://s3\.example cannot be reached"):
        NoS3().at(ELSEWHERE)
    nothing: object = None
    ports = Ports(*[nothing] * 7)  # type: ignore[arg-type]
    assert isinstance(ports.s3, NoS3)
    with pytest.raises(Unavailable, match="no secret key"):
        ports.secrets.seal(b"x", "c")
