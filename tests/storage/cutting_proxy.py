"""A TCP proxy on the loopback that passes requests on and may swallow what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CuttingProxy:
    """The next `cut` answers are read and thrown away, and their connections closed. While it is `silent` nothing
    is passed on, and nothing is closed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        #: How many answers are still to be lost.
        self.cut = 0
        self.lost = 0
        self.silent = False
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(target_writer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forth(reader, target_writer))
            tasks.create_task(self._back(target_reader, writer, target_writer))

    async def _forth(self, reader: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if not self.silent:
                    target.write(data)
                    await target.drain()
            target.close()
        except OSError:
            target.transport.abort()

    async def _back(
        self, target: asyncio.StreamReader, writer: asyncio.StreamWriter, target_writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await target.read(65_536):
                if self.cut and not data.startswith(b"HTTP/1.1 100"):
                    self.cut -= 1
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            target_writer.transport.abort()
