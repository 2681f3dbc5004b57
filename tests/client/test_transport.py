"""HTTP as it is: connections that end, answers that never do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from penstock.client.answers import Answer
from penstock.client.ports import NoAnswer
from penstock.client.transport import AiohttpTransport

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nX-Name: Value\r\nContent-Length: 2\r\n\r\nok"


def ask(talk: Talk, *, times: int = 1, timeout_ms: int = 10_000) -> list[Answer | str]:
    """The answers, or why there is none, of a server that handles each connection with `talk`."""

    async def main() -> list[Answer | str]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except ConnectionError:
                pass  # the client has had enough
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1")
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        transport = AiohttpTransport()
        results: list[Answer | str] = []
        try:
            for _ in range(times):
                try:
                    results.append(await transport.request("POST", url, {}, b"body", timeout_ms))
                except NoAnswer as error:
                    assert not error.hopeless
                    results.append(error.message)
        finally:
            await transport.close()
            server.close()
            await server.wait_closed()
        return results

    return asyncio.run(main())


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\nbody")


def test_an_answer_has_status_headers_in_lower_case_and_body() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)

    (answer,) = ask(talk)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers["x-name"], answer.body) == (200, "Value", b"ok")


def test_a_connection_that_the_server_closed_meanwhile_is_no_answer_and_the_next_try_opens_another() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # the second request over it gets nothing

    results = ask(talk, times=3)
    assert isinstance(results[0], Answer) and isinstance(results[2], Answer)
    assert "No answer from http://127.0.0.1" in str(results[1])


@pytest.mark.parametrize("bytes_sent", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-1], b"not http at all\r\n\r\n"])
def test_half_an_answer_is_none(bytes_sent: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(bytes_sent)

    (result,) = ask(talk)
    assert "No answer from http://127.0.0.1" in str(result)


def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    (result,) = ask(talk)
    assert "more than 1048576 bytes" in str(result)


def test_a_server_that_says_nothing_is_given_up_on() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    (result,) = ask(talk, timeout_ms=50)
    assert "within 50 ms" in str(result)
