"""`penstock.Client`: `AsyncClient` on a thread of its own."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from penstock.base.errors import Invalid
from penstock.client.asynchronous import AsyncClient, AsyncPipeline
from penstock.client.loop_thread import LoopThread
from penstock.client.outbox import Outbox
from penstock.client.ports import ClientPorts
from penstock.client.records import Record, Records, encode_record
from penstock.client.settings import ClientSettings

T = TypeVar("T")

#: After the client is closed nothing is under way: the thread ends at once, unless the machine is overloaded.
_THREAD_END_MS_MAX = 1_000


class Client:
    """Sends records: `with penstock.Client() as client: ...`

    `url`, `token` and `account_id` say which server and as whom. What is not given is taken from `PENSTOCK_URL`,
    `PENSTOCK_TOKEN` and `PENSTOCK_ACCOUNT_ID`, then from `credentials.toml` in `data_dir` (or `PENSTOCK_DATA_DIR`,
    or `data`). It is looked for when a pipeline is named; `pipeline_at` needs none of it.

    One client serves any number of threads. It starts a thread of its own when something is sent for the first
    time, so a client that is made before a fork can be used after it; one that was used before is refused in the
    child. What was put and not sent is sent when the interpreter exits (see `close`).
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        account_id: str | None = None,
        data_dir: str | Path | None = None,
        *,
        settings: ClientSettings | None = None,
        ports: ClientPorts | None = None,
    ) -> None:
        self._settings = settings or ClientSettings()
        self._client = AsyncClient(url, token, account_id, data_dir, settings=self._settings, ports=ports)
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._closed = False

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of this name. The server is asked for it when something is sent.

        Raises `Invalid` when no server, account or token is known.
        """
        return Pipeline(self, self._client.pipeline(name), self._settings)

    def pipeline_at(self, endpoint: str, token: str | None = None) -> Pipeline:
        """The pipeline with this ingest endpoint, `http://…/ingest/<id>`; the control API is not asked.

        Only the `token` that is given here is sent there. Raises `Invalid` if the endpoint is no URL.
        """
        return Pipeline(self, self._client.pipeline_at(endpoint, token), self._settings)

    def flush(self) -> None:
        """Wait until all that was put is stored. Raises `SendError` for what was not."""
        self._run(self._client.flush())

    def close(self) -> None:
        """Send what was put, for at most `close_ms_max`, and end. Raises `SendError` for what was not stored.
        Closing again does nothing."""
        with self._lock:
            thread = None if self._closed else self._thread
            self._closed = True
        if thread is None or thread.pid != os.getpid():
            return  # what was put before a fork is the parent's to send
        atexit.unregister(self.close)
        try:
            thread.run(self._client.close())
        finally:
            thread.stop(_THREAD_END_MS_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            thread = self._running()
        except Invalid:
            work.close()
            raise
        return thread.run(work)

    def _running(self) -> LoopThread:
        thread = self._thread
        if thread is None or self._closed:
            thread = self._start()
        if thread.pid != os.getpid():
            raise Invalid("The process was forked after this client had been used; make a client in each process.")
        return thread

    def _start(self) -> LoopThread:
        with self._lock:
            if self._closed:
                raise Invalid("The client is closed.")
            if self._thread is None:
                self._thread = LoopThread(self._client)
                atexit.register(self.close)
            return self._thread


class Pipeline:
    """One pipeline, as `Client.pipeline` and `pipeline_at` give it. Any thread may use it."""

    def __init__(self, client: Client, pipeline: AsyncPipeline, settings: ClientSettings) -> None:
        self._client = client
        self._pipeline = pipeline
        self._settings = settings
        self._outbox: Outbox | None = None

    def send(self, records: Records, *, idempotency_key: str | None = None) -> int:
        """Send records and wait until they are durable; gives how many were stored.

        `records`: dicts, msgspec Structs, dataclasses or the JSON of an object as bytes, mixed as you like; or the
        JSON of an array as bytes. They are sent at once and in order, past those that were put.

        `idempotency_key`, up to 128 printable ASCII characters: sending the same records to the same pipeline with
        the same key stores them once, for 24 hours, also from another process. Without one that holds for the
        retries of this call.

        Raises `Invalid` or `TooLarge` for a record that cannot be sent, before anything is; `SendError` when
        records were refused or `deadline_ms` is over.
        """
        return self._client._run(self._pipeline.send(records, idempotency_key=idempotency_key))

    def put(self, record: Record) -> None:
        """Take a record, and send it in the background, with others. Blocks only when `buffer_bytes_max` is used
        up.

        Raises `Invalid` or `TooLarge` if it cannot be sent; `SendError` when records that were put before could not
        be sent: its `records` are these and, last, this one, which is not taken.
        """
        encoded = encode_record(record, self._settings.body_bytes_max)
        thread = self._client._running()
        outbox = self._outbox
        if outbox is None:
            outbox = self._outbox = thread.run(self._open_outbox())
        if not outbox.offer(encoded):
            thread.run(outbox.put(encoded))

    def flush(self) -> None:
        """Wait until all that was put before is stored. Raises `SendError` for what was not."""
        self._client._run(self._pipeline.flush())

    def endpoint(self) -> str:
        """The ingest endpoint. Raises `NotFound` if there is no such pipeline, or another `PenstockError`."""
        return self._client._run(self._pipeline.endpoint())

    async def _open_outbox(self) -> Outbox:
        return self._pipeline.open_outbox()
