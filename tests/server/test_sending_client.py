"""`penstock.Client` and `penstock.AsyncClient` against a server in its own processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from penstock import AsyncClient, Client, ClientSettings, SendError

from .conftest import Serve
from .harness import assert_exactly_once


def records(numbers: range) -> list[dict[str, int]]:
    return [{"n": n} for n in numbers]


def test_what_either_client_sends_is_in_files_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENSTOCK_URL", "PENSTOCK_TOKEN", "PENSTOCK_ACCOUNT_ID"):
        monkeypatch.delenv(name, raising=False)
    server = serve()
    server.create()
    with Client(data_dir=server.data) as client:
        clicks = client.pipeline("clicks")
        assert clicks.send(records(range(10))) == 10
        for record in records(range(10, 5_000)):
            clicks.put(record)

    async def main() -> None:
        async with AsyncClient(data_dir=server.data, settings=ClientSettings(body_bytes_max=1_000)) as client:
            clicks = client.pipeline("clicks")
            assert await clicks.send(records(range(5_000, 6_000))) == 1_000
            for record in records(range(6_000, 7_000)):
                await clicks.put(record)
            await clicks.flush()

    asyncio.run(main())
    numbers = set(range(7_000))
    assert_exactly_once(server.drain(numbers), numbers)


def test_what_the_server_refuses_is_an_error_with_its_reason(serve: Serve) -> None:
    server = serve(executors=1)
    server.create()
    with Client(data_dir=server.data) as client:
        with pytest.raises(SendError, match="There is no pipeline named 'nothing'") as error:
            client.pipeline("nothing").send([{"n": 1}])
        assert (error.value.kind, error.value.code) == ("not_found", 1000)
    with Client(data_dir=server.data, token="wrong") as client:
        with pytest.raises(SendError, match="refused the token from the argument token") as error:
            client.pipeline("clicks").send([{"n": 1}])
        assert error.value.kind == "unauthenticated"
    server.stop()


def test_A1_an_executor_that_dies_costs_no_record(serve: Serve) -> None:
    server = serve(executors=2)
    server.create()
    numbers = set(range(4_000))
    with Client(data_dir=server.data, settings=ClientSettings(batch_records_max=50)) as client:
        clicks = client.pipeline("clicks")
        for n in sorted(numbers):
            if n == 2_000:
                clicks.flush()
                os.kill(server.executors()[0], signal.SIGKILL)
            clicks.put({"n": n})
    assert numbers <= server.drain(numbers).keys()
