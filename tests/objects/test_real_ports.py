"""Objects on a real disk, real threads and real sockets: what the simulator assumes about them."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.base.clock import SystemClock
from penstock.base.errors import Fenced, PenstockError, Unavailable
from penstock.base.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES
from penstock.base.rng import seeded_rng
from penstock.objects import AlarmInfo, Context, DurableObject, Runtime, Stub
from penstock.objects.placement import name_owned_by
from penstock.objects.storage import system_storage
from penstock.storage.disk import OsDisk, WalFile
from penstock.storage.object_store import FolderStore
from penstock.storage.offload import Threads
from penstock.storage.ports import Ports
from penstock.storage.relay import LocalRelay
from penstock.storage.transport import UnixTransport

from .world import error_of, start, turns

EXECUTORS = 2
DEADLINE_S = 20


class Blobs(DurableObject[SimpleNamespace]):
    def __init__(self, ctx: Context, env: SimpleNamespace) -> None:
        super().__init__(ctx, env)
        self.sql = ctx.storage.sql
        self.sql.exec("CREATE TABLE IF NOT EXISTS blobs (id INTEGER PRIMARY KEY, blob BLOB)")

    def add(self, blob: bytes) -> int:
        id: int = self.sql.exec("INSERT INTO blobs (blob) VALUES (?1) RETURNING id", blob).one()[0]
        return id

    def count(self) -> int:
        count: int = self.sql.exec("SELECT count(*) FROM blobs").one()[0]
        return count

    async def clear(self) -> None:
        self.sql.exec("DELETE FROM blobs")
        await system_storage(self.ctx.storage).give_back_space()

    async def upload(self) -> int:
        def chunks() -> Iterator[bytes]:
            with system_storage(self.ctx.storage).reader() as reader:
                for (blob,) in reader.rows("SELECT blob FROM blobs ORDER BY id", ()):
                    yield blob

        return await self.ctx.buckets.put("bucket", "all.bin", chunks)

    async def echo(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk

    async def zeros(self, size: int) -> AsyncIterator[bytes]:
        try:
            while self.env.zeros < size:
                yield bytes(STREAM_CHUNK_BYTES_MAX)
                self.env.zeros += STREAM_CHUNK_BYTES_MAX
        finally:
            self.env.closed.set()

    def wake_soon(self) -> None:
        self.ctx.storage.set_alarm(self.ctx.clock.now_ms() + 20)

    async def alarm(self, info: AlarmInfo) -> None:
        self.env.woken.set()


class StubbornDisk(OsDisk):
    """Its logs cannot be synced while `refuses`."""

    refuses = False

    def open_wal(self, path: str) -> WalFile:
        return _StubbornWal(self, super().open_wal(path))


class _StubbornWal:
    def __init__(self, disk: StubbornDisk, inner: WalFile) -> None:
        self._disk = disk
        self.read, self.close = inner.read, inner.close
        self._sync = inner.sync

    def sync(self) -> None:
        if self._disk.refuses:
            raise OSError(errno.EIO, "Input/output error")
        self._sync()


class _Ended(Exception):
    pass


class Machine:
    """Two executors, which live in one process here."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup, disk: OsDisk) -> None:
        self.folder = folder
        self.fatal: list[PenstockError] = []
        self.env = SimpleNamespace(woken=asyncio.Event(), closed=asyncio.Event(), zeros=0)
        self.offload = Threads()
        self.relays = [LocalRelay(self.offload, SystemClock(), self.fatal.append) for _ in range(EXECUTORS)]
        self.transports = [UnixTransport(str(folder), slot, tasks) for slot in range(EXECUTORS)]
        self.runtimes = [
            Runtime(
                Ports(
                    clock=SystemClock(),
                    rng=seeded_rng(slot),
                    disk=disk,
                    offload=self.offload,
                    relay=self.relays[slot],
                    transport=self.transports[slot],
                    buckets=FolderStore(disk, self.offload, f"{folder}/buckets", f"{folder}/unfinished"),
                ),
                str(folder),
                slot=slot,
                executors=EXECUTORS,
                tasks=tasks,
                on_fatal=self.fatal.append,
            )
            for slot in range(EXECUTORS)
        ]

    def stub(self, slot: int, name: str = "a") -> Stub:
        """A stub, held by executor 0, of an object of executor `slot`."""
        return self.runtimes[0].namespace("Blobs").get_by_name(name_owned_by("Blobs", name, slot, EXECUTORS))


@asynccontextmanager
async def machine(folder: Path, disk: OsDisk | None = None, *, stop: bool = True) -> AsyncIterator[Machine]:
    try:
        async with asyncio.TaskGroup() as tasks:
            made = Machine(folder, tasks, disk or OsDisk())
            for slot, runtime in enumerate(made.runtimes):
                tasks.create_task(made.relays[slot].run())
                runtime.register(Blobs, made.env)
                await runtime.start()
                await made.transports[slot].serve(runtime.answer, runtime.answer_streams)
            yield made
            for runtime, transport in zip(made.runtimes, made.transports, strict=True):
                transport.close()
                (folder / f"executor-{runtime.slot}.sock").unlink(missing_ok=True)
                if stop:
                    await runtime.stop()
            raise _Ended
    except* _Ended:
        made.offload.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main()

    asyncio.run(bounded())


def test_objects_keep_their_state_from_one_server_to_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        for life in range(3):
            async with machine(tmp_path) as server:
                for slot in range(EXECUTORS):
                    assert await server.stub(slot).count() == life
                    assert await server.stub(slot).add(b"%d" % life) == life + 1
                assert server.fatal == []

    run(main)


def test_what_a_killed_server_leaves_holds_everything_it_acknowledged(tmp_path: Path) -> None:
    alive, killed = tmp_path / "alive", tmp_path / "killed"
    alive.mkdir()

    async def main() -> None:
        async with machine(alive) as server:
            stubs = [server.stub(slot, name) for slot in range(EXECUTORS) for name in "abc"]
            await asyncio.gather(*(stub.count() for stub in stubs))
            calls = [start(stub.add(b"x" * 300)) for stub in stubs for _ in range(50)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            acknowledged = {stub.id.name: 0 for stub in stubs}
            for n, call in enumerate(calls):
                acknowledged[stubs[n // 50].id.name] += call.done()
            shutil.copytree(alive, killed, ignore=shutil.ignore_patterns("*.sock"))
            await asyncio.gather(*calls)
        async with machine(killed) as server:
            for slot in range(EXECUTORS):
                for name in "abc":
                    stub = server.stub(slot, name)
                    assert acknowledged[stub.id.name] <= await stub.count() <= 50

    run(main)


def test_many_callers_share_few_syncs(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            stub = server.stub(0)
            await stub.count()
            before = server.relays[0].statistics.syncs

            async def client() -> None:
                for _ in range(10):
                    await stub.add(b"x")

            await asyncio.gather(*(client() for _ in range(64)))
            assert server.relays[0].statistics.syncs - before < 640 / 4
            assert await stub.count() == 640

    run(main)


def log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("objects/Blobs/*/*.db-wal"))


def test_the_log_starts_again_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            for runtime in server.runtimes:
                runtime.wal_bytes_max = 200_000
            stub, blob = server.stub(0), bytes(20_000)

            async def client() -> None:
                for _ in range(100):
                    await stub.add(blob)

            uploads = []
            async with asyncio.TaskGroup() as clients:
                for _ in range(4):
                    clients.create_task(client())
                uploads = [await stub.upload() for _ in range(5)]
            assert all(size % len(blob) == 0 for size in uploads)
            assert uploads == sorted(uploads)
            assert await stub.count() == 400
            assert 0 < log_bytes(tmp_path) < 400 * len(blob) / 2
            assert await stub.upload() == 400 * len(blob)
            statistics = server.runtimes[0].statistics
            assert (statistics.broken, server.fatal) == (0, [])
        async with machine(tmp_path) as server:
            assert await server.stub(0).count() == 400

    run(main)


@pytest.mark.parametrize("slot", range(EXECUTORS))
def test_an_alarm_fires(tmp_path: Path, slot: int) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            await server.stub(slot).wake_soon()
            await server.env.woken.wait()

    run(main)


def test_calls_across_sockets_arrive_in_order_from_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            stub, calls = server.stub(1), []
            for _ in range(200):
                calls.append(start(stub.add(b"x")))
                await turns(1)
            assert await asyncio.gather(*calls) == list(range(1, 201))

    run(main)


def test_b3_after_a_failed_sync_nothing_is_acknowledged_and_the_process_must_end(tmp_path: Path) -> None:
    async def main() -> None:
        disk = StubbornDisk()
        async with machine(tmp_path, disk, stop=False) as server:
            stub, other = server.stub(0), server.stub(0, "other")
            await stub.add(b"x"), await other.count()
            disk.refuses = True
            failed = start(stub.add(b"y"))
            while not server.fatal:
                await turns(1)
            disk.refuses = False  # as Linux does: it fails once, then claims success
            later = [start(stub.add(b"z")), start(stub.count()), start(other.add(b"z"))]
            await server.offload.run("sync", lambda: None)
            await turns()
            assert not failed.done() and not any(call.done() for call in later)
            [fatal] = server.fatal
            assert isinstance(fatal, Fenced) and "refused to make data durable" in fatal.message
            for call in (failed, *later):
                call.cancel()

    run(main)


def test_a_sibling_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            await server.stub(1).count()
            server.transports[1].close()
            (tmp_path / "executor-1.sock").unlink(missing_ok=True)
            server.transports[0].close()  # the connection breaks with the sibling
            await turns()
            error = await error_of(server.stub(1).count())
            assert isinstance(error, Unavailable) and error.retry_after_s

    run(main)


def test_space_is_given_back_after_a_backlog(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as server:
            stub = server.stub(0)
            for _ in range(80):
                await stub.add(bytes(2_000_000))
            await stub.clear()

    run(main)
    size = sum(path.stat().st_size for path in tmp_path.glob("objects/Blobs/*/*.db"))
    assert size < 80_000_000


def test_streams_over_real_sockets_are_whole_and_bounded_and_end_with_their_readers(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as made:
            for slot in (0, 1):
                blobs = made.stub(slot)
                chunks = [bytes([n % 251]) * (n * 997 % 100_000) for n in range(200)]

                async def source(chunks: list[bytes] = chunks) -> AsyncIterator[bytes]:
                    for chunk in chunks:
                        yield chunk

                echoed = [chunk async for chunk in await blobs.echo(source())]
                assert b"".join(echoed) == b"".join(chunks)
                assert max(map(len, echoed)) <= STREAM_CHUNK_BYTES_MAX
                stream = await blobs.zeros(1 << 40)
                await anext(stream)
                await asyncio.sleep(0.05)
                assert 0 < made.env.zeros <= STREAM_WINDOW_BYTES + 2 * STREAM_CHUNK_BYTES_MAX
                await stream.aclose()
                await asyncio.wait_for(made.env.closed.wait(), 5)
                made.env.closed.clear()
                made.env.zeros = 0

    run(main)


def test_a_stream_ends_with_an_error_when_the_connection_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(tmp_path) as made:
            stream = await made.stub(1).zeros(1 << 40)
            await anext(stream)
            made.transports[0].close()
            with pytest.raises(Unavailable):
                async for _ in stream:
                    pass
            await asyncio.wait_for(made.env.closed.wait(), 5)

    run(main)
