"""How answers leave: each in one write."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.server.connection import JoinedWrites


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def on_a_loop(work: Any) -> Transport:
    async def main() -> Transport:
        transport = Transport()
        joined = JoinedWrites(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        work(joined, transport)
        await asyncio.sleep(0)
        return transport

    return asyncio.run(main())


def test_what_is_written_in_one_turn_leaves_in_one_write() -> None:
    def work(joined: JoinedWrites, transport: Transport) -> None:
        joined.write(b"head")
        joined.write(b"body")
        assert not transport.written

    assert on_a_loop(work).written == [b"headbody"]


def test_closing_writes_first() -> None:
    def work(joined: JoinedWrites, transport: Transport) -> None:
        joined.write(b"last")
        joined.close()
        assert transport.written == [b"last"]
        assert transport.closed

    assert on_a_loop(work).written == [b"last"]


def test_nothing_is_written_to_a_client_that_left() -> None:
    def work(joined: JoinedWrites, transport: Transport) -> None:
        joined.write(b"too late")
        transport.closed = True

    assert on_a_loop(work).written == []


def test_the_rest_is_the_transports() -> None:
    def work(joined: JoinedWrites, transport: Transport) -> None:
        assert joined.get_extra_info("peer") == "the peer"
        assert not joined.is_closing()

    on_a_loop(work)
