"""What every object store does alike: folders, the simulator's, and a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.s3 import S3Server

from penstock.base.clock import SystemClock
from penstock.base.errors import NotFound
from penstock.base.rng import seeded_rng
from penstock.storage.disk import OsDisk
from penstock.storage.object_store import FolderStore, ObjectInfo, ObjectStore
from penstock.storage.offload import Offload, Threads
from penstock.storage.s3_store import S3Pool
from penstock.storage.secrets import Secrets, new_secret_key
from penstock.testing.sim.faulty_store import FaultyStore, StoreFaults

BIG = bytes(range(251)) * 80_000  # 20 MB: three parts
KEYS = [
    "a",
    "a-b",
    "a.txt",
    "a0",
    "b/c",
    "b/c-d",
    "b/d/e",
    "b/d/f",
    "b0",
    "day=1/hr=1/x.json.gz",
    "x y+z%&é/ü",
    "~",
]

Test = Callable[[ObjectStore, str], Awaitable[None]]
Run = Callable[[Test], None]


def folders(tmp_path: Path, offload: Offload) -> FolderStore:
    return FolderStore(OsDisk(), offload, str(tmp_path / "buckets"), str(tmp_path / "unfinished"))


@pytest.fixture(params=["folders", "simulated", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs a test against a store, with an empty bucket of its own."""
    with ExitStack() as stack:
        offload = Threads()
        stack.callback(offload.close)
        bucket = "contract"
        server: S3Server | None = None
        if request.param == "s3":
            server = request.getfixturevalue("s3_server")
            bucket = server.make_bucket()

        def make() -> ObjectStore:
            if server is not None:
                secrets = Secrets([new_secret_key(seeded_rng(1))], seeded_rng(2))
                return S3Pool(secrets, offload).at(server.connection(secrets))
            store = folders(tmp_path, offload)
            if request.param == "simulated":
                return FaultyStore(store, SystemClock(), seeded_rng(3), StoreFaults())
            return store

        async def main(test: Test) -> None:
            async with asyncio.timeout(60):
                await test(make(), bucket)

        yield lambda test: asyncio.run(main(test))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(8 << 20), BIG], ids=["empty", "small", "one part", "big"])
def test_what_was_put_can_be_got_read_and_seen(run: Run, content: bytes) -> None:
    async def test(store: ObjectStore, bucket: str) -> None:
        pieces = [content[at : at + 700_001] for at in range(0, len(content), 700_001)]
        assert await store.put(bucket, "d/k", lambda: pieces) == len(content)
        assert await store.get(bucket, "d/k") == content
        assert b"".join([piece async for piece in store.read(bucket, "d/k")]) == content
        assert await store.head(bucket, "d/k") == ObjectInfo("d/k", len(content))
        assert await store.list(bucket) == [ObjectInfo("d/k", len(content))]

    run(test)


def test_putting_again_replaces_and_the_same_bytes_change_nothing(run: Run) -> None:
    async def test(store: ObjectStore, bucket: str) -> None:
        for content in (BIG, b"short", b"short", BIG):
            await store.put(bucket, "k", lambda content=content: [content])
            assert await store.get(bucket, "k") == content
            assert await store.list(bucket) == [ObjectInfo("k", len(content))]

    run(test)


def test_what_is_not_there_is_not_found(run: Run) -> None:
    async def test(store: ObjectStore, bucket: str) -> None:
        await store.put(bucket, "folder/x", lambda: [b"x"])
        for key in ("nothing", "folder", "folder/nothing"):
            with pytest.raises(NotFound) as caught:
                await store.get(bucket, key)
            assert type(caught.value) is NotFound
            with pytest.raises(NotFound):
                await anext(store.read(bucket, key))
            assert await store.head(bucket, key) is None

    run(test)


def test_a_deleted_object_is_gone_and_deleting_nothing_is_harmless(run: Run) -> None:
    async def test(store: ObjectStore, bucket: str) -> None:
        await store.put(bucket, "d/k", lambda: [b"x"])
        await store.put(bucket, "d/other", lambda: [b"x"])
        for _ in range(2):
            await store.delete(bucket, "d/k")
            assert await store.head(bucket, "d/k") is None
        assert await store.list(bucket) == [ObjectInfo("d/other", 1)]

    run(test)


def test_pages_put_together_are_the_list_whatever_the_prefix(run: Run) -> None:
    async def test(store: ObjectStore, bucket: str) -> None:
        for key in KEYS:
            await store.put(bucket, key, lambda: [b"x"])
        for prefix in ("", "a", "a-", "b", "b/", "b/d", "b/d/e", "c", "day=", "day=1/hr", "x y", "x y+z%&é/"):
            expected = sorted(key for key in KEYS if key.startswith(prefix))
            assert [info.key for info in await store.list(bucket, prefix)] == expected
            for limit in (1, 5):
                found: list[str] = []
                while page := await store.list(bucket, prefix, after=found[-1] if found else "", limit=limit):
                    assert len(page) <= limit
                    found += [info.key for info in page]
                assert found == expected

    run(test)


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_when_the_bytes_cannot_be_made_nothing_is_there(run: Run, size: int) -> None:
    closed = []

    def broken() -> Iterator[bytes]:
        try:
            for start in range(0, size, 1_000_000):
                yield bytes(min(1_000_000, size - start))
            raise LookupError("no more rows")
        finally:
            closed.append(True)

    async def test(store: ObjectStore, bucket: str) -> None:
        with pytest.raises(LookupError, match="no more rows"):
            await store.put(bucket, "k", broken)
        assert await store.list(bucket) == [] and closed == [True]

    run(test)
