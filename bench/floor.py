"""The floor: the least program that does what an ingest promises. What Penstock adds is measured against it.

    python -m bench.floor --port 9000 --data-dir /tmp/floor

uvicorn with httptools and uvloop; a raw ASGI application; `msgspec` splits the array without decoding its
records; the records, joined by newlines, become one row of SQLite; the log (WAL) is fdatasynced by one thread; 200
is sent only when a sync that began after the row's commit has returned. Nothing else: no validation beyond "an
array", no limits, no metrics, no files, no freeing.

It is meant to be the best version of itself, so writes that arrive in one turn of the event loop share a
transaction, which is committed on the next turn, and all commits made while a sync is under way share the next
one. Several processes share the port (SO_REUSEPORT); each has its own database, as each executor has its own
shards. What was tried beside this and did not pay, or paid little, is in `bench/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import msgspec
import uvicorn
import uvloop

PAGE_BYTES = 4096

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Log:
    """One row per batch; `append` gives a future that is done when the row is durable."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._sql = apsw.Connection(str(path))
        self._sql.pragma("page_size", PAGE_BYTES)
        self._sql.pragma("journal_mode", "wal")
        self._sql.pragma("synchronous", "normal")
        self._sql.pragma("wal_autocheckpoint", 0)
        self._sql.execute("CREATE TABLE batch (sequence INTEGER PRIMARY KEY, records INTEGER, data BLOB)")
        self._wal = os.open(f"{path}-wal", os.O_RDWR)
        self._thread = ThreadPoolExecutor(1)
        self._uncommitted: list[asyncio.Future[None]] = []
        self._unsynced: list[asyncio.Future[None]] = []
        self._syncing: list[asyncio.Future[None]] = []

    def append(self, records: int, data: bytes) -> asyncio.Future[None]:
        if not self._uncommitted:
            self._sql.execute("BEGIN")
            self._loop.call_soon(self._commit)
        self._sql.execute("INSERT INTO batch (records, data) VALUES (?, ?)", (records, data))
        durable = self._loop.create_future()
        self._uncommitted.append(durable)
        return durable

    def _commit(self) -> None:
        self._sql.execute("COMMIT")
        self._unsynced += self._uncommitted
        self._uncommitted = []
        if not self._syncing:
            self._sync()

    def _sync(self) -> None:
        self._syncing, self._unsynced = self._unsynced, []
        self._loop.run_in_executor(self._thread, os.fdatasync, self._wal).add_done_callback(self._synced)

    def _synced(self, done: asyncio.Future[None]) -> None:
        if done.exception() is not None:
            os._exit(1)  # whether anything is durable is unknown from here on
        for durable in self._syncing:
            if not durable.done():
                durable.set_result(None)
        self._syncing = []
        if self._unsynced:
            self._sync()


def application(log: Log) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        if message["more_body"]:
            pieces = [body]
            while message["more_body"]:
                message = await receive()
                pieces.append(message["body"])
            body = b"".join(pieces)
        records = _split(body)
        await log.append(len(records), b"\n".join(records))
        reply = b'{"success":true,"result":{"committed":%d}}' % len(records)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    return answer


async def serve(port: int, folder: Path) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            application(Log(folder / f"{os.getpid()}.db")),
            http="httptools",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_level="warning",
        )
        await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--data-dir", type=Path, required=True)
    options = arguments.parse_args()
    uvloop.run(serve(options.port, options.data_dir))


if __name__ == "__main__":
    main()
