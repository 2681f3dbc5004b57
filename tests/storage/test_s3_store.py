"""Buckets of a real S3 server, when things go wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
from tests.s3 import READER, WRITER, WRONG, S3Server

from penstock.base.errors import BucketNotFound, Corrupt, Forbidden, PenstockError, Unavailable
from penstock.base.limits import S3_CLIENTS_MAX, S3_PART_BYTES, S3_PARTS_MAX
from penstock.base.rng import seeded_rng
from penstock.storage import s3_store
from penstock.storage.connection import S3Credentials, connect
from penstock.storage.object_store import ObjectInfo
from penstock.storage.offload import Threads
from penstock.storage.s3_store import S3Pool, S3Store
from penstock.storage.secrets import Secrets, new_secret_key

from .cutting_proxy import CuttingProxy

SECRETS = Secrets([new_secret_key(seeded_rng(1))], seeded_rng(2))
BIG_PARTS = 4
BIG = BIG_PARTS * S3_PART_BYTES - 1000


def run(main: Callable[[S3Pool], Awaitable[None]]) -> None:
    async def bounded() -> None:
        offload = Threads()
        try:
            async with asyncio.timeout(90):
                await main(S3Pool(SECRETS, offload))
        finally:
            offload.close()

    asyncio.run(bounded())


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests time out after a second, and calls soon after."""
    monkeypatch.setattr(s3_store, "S3_REQUEST_SECONDS_MAX", 1)
    monkeypatch.setattr(s3_store, "S3_RETRY_SECONDS_MAX", 2)


def big() -> Iterator[bytes]:
    for start in range(0, BIG, S3_PART_BYTES // 2):
        yield bytes(min(S3_PART_BYTES // 2, BIG - start))


def every_call(store: S3Store, bucket: str) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "put": lambda: store.put(bucket, "k", lambda: [b"x"]),
        "put big": lambda: store.put(bucket, "k", big),
        "get": lambda: store.get(bucket, "k"),
        "read": lambda: anext(store.read(bucket, "k")),
        "head": lambda: store.head(bucket, "k"),
        "delete": lambda: store.delete(bucket, "k"),
        "list": lambda: store.list(bucket),
    }


async def raised(call: Callable[[], Awaitable[object]]) -> PenstockError | None:
    try:
        await call()
    except PenstockError as error:
        return error
    return None


@pytest.mark.parametrize("credentials", [WRONG, S3Credentials("nobody", "secret")], ids=["wrong", "unknown"])
def test_E1_refused_credentials_are_forbidden_whatever_is_asked(
    s3_server: S3Server, bucket: str, credentials: S3Credentials
) -> None:
    async def main(pool: S3Pool) -> None:
        store = pool.at(s3_server.connection(SECRETS, credentials))
        for name, call in every_call(store, bucket).items():
            error = await raised(call)
            assert type(error) is Forbidden, name
            assert s3_server.endpoint in error.message and bucket in error.message
            assert "Check access_key_id and secret_access_key" in error.message

    run(main)


def test_E1_what_a_key_may_not_do_is_forbidden_and_the_rest_works(s3_server: S3Server, bucket: str) -> None:
    async def main(pool: S3Pool) -> None:
        await pool.at(s3_server.connection(SECRETS)).put(bucket, "k", lambda: [b"x"])
        reader = every_call(pool.at(s3_server.connection(SECRETS, READER)), bucket)
        refused = {name for name, call in reader.items() if isinstance(await raised(call), Forbidden)}
        assert refused == {"put", "put big", "delete"}

    run(main)


def test_E1_a_bucket_that_is_not_there_is_told_from_a_key_that_is_not(s3_server: S3Server) -> None:
    async def main(pool: S3Pool) -> None:
        calls = every_call(pool.at(s3_server.connection(SECRETS)), "no-such-bucket")
        for name in ("put", "put big", "get", "delete", "list"):
            error = await raised(calls[name])
            assert type(error) is BucketNotFound, name
            assert "the bucket no-such-bucket at http" in error.message and "Make it" in error.message

    run(main)


def test_E1_a_server_that_is_not_there_is_worth_trying_again(s3_server: S3Server, bucket: str) -> None:
    async def main(pool: S3Pool) -> None:
        for endpoint, words in (
            ("http://127.0.0.1:1", "Connection refused"),
            ("http://no-such.invalid", "no answer"),
        ):
            store = pool.at(s3_server.connection(SECRETS, endpoint=endpoint))
            for name, call in every_call(store, bucket).items():
                error = await raised(call)
                assert type(error) is Unavailable, name
                assert words in error.message and endpoint in error.message

    run(main)


def test_E1_a_server_killed_in_an_upload_shows_nothing_and_the_next_try_succeeds(
    s3_server: S3Server, bucket: str
) -> None:
    def killed() -> Iterator[bytes]:
        for number, chunk in enumerate(big()):
            if number == 5:
                s3_server.kill()
            yield chunk

    async def main(pool: S3Pool) -> None:
        store = pool.at(s3_server.connection(SECRETS))
        try:
            assert isinstance(await raised(lambda: store.put(bucket, "k", killed)), Unavailable)
        finally:
            s3_server.start()
        assert await store.list(bucket) == []
        assert await store.put(bucket, "k", big) == BIG
        assert await store.list(bucket) == [ObjectInfo("k", BIG)]

    run(main)


@pytest.mark.usefixtures("impatient")
def test_E1_a_server_that_hangs_is_given_up_and_works_again_when_it_answers(
    s3_server: S3Server, bucket: str
) -> None:
    async def main(pool: S3Pool) -> None:
        store = pool.at(s3_server.connection(SECRETS))
        s3_server.pause()
        try:
            for name, call in every_call(store, bucket).items():
                async with asyncio.timeout(20):
                    assert isinstance(await raised(call), Unavailable), name
        finally:
            s3_server.resume()
        assert await store.put(bucket, "k", big) == BIG
        assert await store.head(bucket, "k") == ObjectInfo("k", BIG)

    run(main)


@pytest.mark.parametrize("lost", [1, 100], ids=["one answer", "every answer"])
def test_E1_a_put_whose_answer_is_lost_is_there_and_putting_it_again_is_harmless(
    s3_server: S3Server, bucket: str, lost: int
) -> None:
    async def main(pool: S3Pool) -> None:
        async with CuttingProxy(s3_server.port).running() as proxy:
            store = pool.at(s3_server.connection(SECRETS, endpoint=f"http://127.0.0.1:{proxy.port}"))
            proxy.cut = lost
            error = await raised(lambda: store.put(bucket, "k", lambda: [b"once"]))
            assert proxy.lost and (error is None if lost == 1 else isinstance(error, Unavailable))
            proxy.cut = 0
            direct = pool.at(s3_server.connection(SECRETS))
            assert await direct.get(bucket, "k") == b"once"
            assert await store.put(bucket, "k", lambda: [b"once"]) == 4
            assert await direct.list(bucket) == [ObjectInfo("k", 4)]

    run(main)


@pytest.mark.parametrize("lost", range(1, 9))
def test_E1_a_big_put_that_loses_answers_at_its_end_is_there_once_after_another_try(
    s3_server: S3Server, bucket: str, lost: int
) -> None:
    async def main(pool: S3Pool) -> None:
        async with CuttingProxy(s3_server.port).running() as proxy:
            store = pool.at(s3_server.connection(SECRETS, endpoint=f"http://127.0.0.1:{proxy.port}"))

            def losing() -> Iterator[bytes]:
                yield from big()
                proxy.cut = lost  # of the last parts, and of the completion

            error = await raised(lambda: store.put(bucket, "k", losing))
            assert error is None or isinstance(error, Unavailable)
            assert proxy.lost
            proxy.cut = 0
            assert await store.put(bucket, "k", big) == BIG
            assert await store.list(bucket) == [ObjectInfo("k", BIG)]

    run(main)


def test_a_cancelled_upload_takes_itself_back(s3_server: S3Server, bucket: str) -> None:
    async def main(pool: S3Pool) -> None:
        store = pool.at(s3_server.connection(SECRETS))
        loop, under_way, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def endless() -> Iterator[bytes]:
            while True:
                for _ in range(4):
                    yield bytes(S3_PART_BYTES)
                s3_server.wait_for_parts(bucket, 4)
                loop.call_soon_threadsafe(under_way.set)
                cancelled.wait(30)

        async with asyncio.TaskGroup() as tasks:
            put = tasks.create_task(store.put(bucket, "k", endless))
            await under_way.wait()
            put.cancel()
            cancelled.set()
        assert put.cancelled()
        assert s3_server.uploads(bucket) == []
        assert await store.list(bucket) == []

    run(main)


def test_an_upload_whose_bytes_cannot_be_made_takes_itself_back(s3_server: S3Server, bucket: str) -> None:
    seen = []

    def broken() -> Iterator[bytes]:
        yield from big()
        s3_server.wait_for_parts(bucket, BIG_PARTS - 1)  # with the last bytes would come the last part
        seen.extend(s3_server.uploads(bucket))
        raise LookupError("no more rows")

    async def main(pool: S3Pool) -> None:
        with pytest.raises(LookupError, match="no more rows"):
            await pool.at(s3_server.connection(SECRETS)).put(bucket, "k", broken)
        assert seen and s3_server.uploads(bucket) == []

    run(main)


@pytest.mark.usefixtures("impatient")
def test_an_upload_that_gets_stuck_holds_few_parts_in_memory(s3_server: S3Server, bucket: str) -> None:
    made = 0

    async def main(pool: S3Pool) -> None:
        async with CuttingProxy(s3_server.port).running() as proxy:

            def endless() -> Iterator[bytes]:
                nonlocal made
                while True:
                    made += 1
                    proxy.silent = made >= 4
                    yield bytes(S3_PART_BYTES)

            store = pool.at(s3_server.connection(SECRETS, endpoint=f"http://127.0.0.1:{proxy.port}"))
            assert isinstance(await raised(lambda: store.put(bucket, "k", endless)), Unavailable)
        assert made <= 4 + S3_PARTS_MAX + 2

    run(main)


def test_many_uploads_at_once_share_the_slots(s3_server: S3Server, bucket: str) -> None:
    running = most = 0

    async def main(pool: S3Pool) -> None:
        store = pool.at(s3_server.connection(SECRETS))

        def watched() -> Iterator[bytes]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                yield b"x" * 100_000
            finally:
                running -= 1

        await asyncio.gather(*(store.put(bucket, f"k{number}", watched) for number in range(20)))
        assert len(await store.list(bucket)) == 20
        assert most <= s3_store.S3_UPLOADS_PER_CONNECTION_MAX

    run(main)


def test_what_the_environment_says_does_not_count(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SECRET_ACCESS_KEY": "another",
        "AWS_SESSION_TOKEN": "another",
        "AWS_REGION": "eu-west-9",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)

    async def main(pool: S3Pool) -> None:
        assert await pool.at(s3_server.connection(SECRETS)).put(bucket, "k", lambda: [b"x"]) == 1

    run(main)


def test_a_bucket_is_in_the_path_or_in_the_host_name() -> None:
    for path_style, endpoint in ((True, "https://s3.example:9000"), (False, "https://logs.s3.example:9000")):
        connection = connect(SECRETS, "p", "https://s3.example:9000", WRITER, path_style=path_style)
        config = s3_store._client(connection, WRITER, "logs").config
        assert config["endpoint_url_s3"] == endpoint
        assert str(config["virtual_hosted_style_request"]).lower() == str(not path_style).lower()


def test_a_connection_has_one_store_and_the_least_used_are_forgotten(s3_server: S3Server) -> None:
    async def main(pool: S3Pool) -> None:
        first = s3_server.connection(SECRETS)
        store = pool.at(first)
        for number in range(S3_CLIENTS_MAX):
            assert pool.at(first) is store
            pool.at(s3_server.connection(SECRETS, owner=f"p{number}"))
        assert pool.at(first) is store
        assert len(pool._stores) == S3_CLIENTS_MAX

    run(main)


def test_credentials_of_one_pipeline_do_not_open_for_another(s3_server: S3Server) -> None:
    async def main(pool: S3Pool) -> None:
        with pytest.raises(Corrupt):
            pool.at(msgspec.structs.replace(s3_server.connection(SECRETS), owner="another"))
        with pytest.raises(Unavailable, match=r"secret\.key"):
            S3Pool(Secrets([new_secret_key(seeded_rng(9))]), Threads()).at(s3_server.connection(SECRETS))

    run(main)


FORKED = """
import asyncio, os, sys
import uvloop
from penstock.base.rng import system_rng
from penstock.storage.connection import S3Credentials, connect
from penstock.storage.offload import Threads
from penstock.storage.s3_store import S3Pool
from penstock.storage.secrets import Secrets, new_secret_key

async def main(bucket, endpoint, key, secret):
    secrets = Secrets([new_secret_key(system_rng())], system_rng())
    offload = Threads()
    store = S3Pool(secrets, offload).at(connect(secrets, "p", endpoint, S3Credentials(key, secret)))
    await store.put(bucket, f"from {os.getpid()}", lambda: [b"x" * 1_000_000] * 20)
    offload.close()

children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(*sys.argv[1:]))
        os._exit(0)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


def test_it_works_in_executors_which_are_forked_and_run_uvloop(s3_server: S3Server, bucket: str) -> None:
    key = (WRITER.access_key_id, WRITER.secret_access_key)
    subprocess.run([sys.executable, "-c", FORKED, bucket, s3_server.endpoint, *key], timeout=60, check=True)

    async def main(pool: S3Pool) -> None:
        found = await pool.at(s3_server.connection(SECRETS)).list(bucket)
        assert [info.size_bytes for info in found] == [20_000_000] * 2

    run(main)


def test_G10_no_error_and_no_representation_shows_the_secret(s3_server: S3Server, bucket: str) -> None:
    canary = S3Credentials(WRITER.access_key_id, "canary-52c1")

    async def main(pool: S3Pool) -> None:
        for endpoint in (s3_server.endpoint, "http://127.0.0.1:1"):
            store = pool.at(s3_server.connection(SECRETS, canary, endpoint=endpoint))
            for call in every_call(store, bucket).values():
                error = await raised(call)
                assert error is not None
                shown = f"{error!r} {error.__cause__!r} {vars(error)} {error.message}"
                assert "canary" not in shown
            client = s3_store._client(store._connection, canary, "b")
            assert "canary" not in f"{store!r} {vars(store)} {pool!r} {vars(pool)} {client!r} {client.config}"

    run(main)
