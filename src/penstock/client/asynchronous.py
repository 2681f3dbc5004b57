"""`penstock.AsyncClient`. The synchronous client is this one, on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.base.errors import Invalid
from penstock.base.limits import CLIENT_KEY_LENGTH_MAX
from penstock.client.endpoint import ByName, Endpoint, Fixed, Locator
from penstock.client.errors import SendError
from penstock.client.outbox import Outbox
from penstock.client.ports import ClientPorts, Transport
from penstock.client.records import Record, Records, encode_record, encode_records
from penstock.client.requests import Requests
from penstock.client.sender import Sender
from penstock.client.settings import ClientSettings
from penstock.client.target import DATA_DIR_DEFAULT, Setting, Target, checked_url, find_target


@dataclass(slots=True)
class _Life:
    """What is there between the beginning and the end of the client's `async with` block."""

    group: asyncio.TaskGroup
    transport: Transport
    requests: Requests

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.group.create_task(work)


class AsyncClient:
    """Sends records from asyncio code: `async with penstock.AsyncClient() as client: ...`

    `url`, `token` and `account_id` say which server and as whom. What is not given is taken from `PENSTOCK_URL`,
    `PENSTOCK_TOKEN` and `PENSTOCK_ACCOUNT_ID`, then from `credentials.toml` in `data_dir` (or `PENSTOCK_DATA_DIR`,
    or `data`). It is looked for when a pipeline is named; `pipeline_at` needs none of it.

    It belongs to the event loop on which its block was entered. Leaving the block sends what was put (see `close`).
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
        self._given = {"url": url, "token": token, "account_id": account_id}
        self._data_dir = data_dir
        self._settings = settings or ClientSettings()
        self._ports = ports or ClientPorts()
        self._pipelines: dict[tuple[str, str | None], AsyncPipeline] = {}
        self._life: _Life | None = None
        self._closed = False

    def pipeline(self, name: str) -> AsyncPipeline:
        """The pipeline of this name; the same object each time. The server is asked for it when something is sent.

        Raises `Invalid` when no server, account or token is known.
        """
        key = (name, None)
        if key not in self._pipelines:
            self._pipelines[key] = self._made(ByName(name, self._target(), self._requests))
        return self._pipelines[key]

    def pipeline_at(self, endpoint: str, token: str | None = None) -> AsyncPipeline:
        """The pipeline with this ingest endpoint, `http://…/ingest/<id>`; the control API is not asked.

        Only the `token` that is given here is sent there. Raises `Invalid` if the endpoint is no URL.
        """
        url = checked_url(Setting(endpoint, "the argument endpoint")).value
        key = (url, token or "")
        if key not in self._pipelines:
            self._pipelines[key] = self._made(Fixed(Endpoint(url, token)))
        return self._pipelines[key]

    async def flush(self) -> None:
        """Wait until all that was put is stored. Raises `SendError` for what was not."""
        await _all([outbox.flush() for outbox in self._outboxes()])

    async def close(self) -> None:
        """Send what was put, for at most `close_ms_max`, and end. Raises `SendError` for what was not stored.
        Closing again does nothing."""
        life = self._life
        if life is None or self._closed:
            return
        self._closed = True
        outboxes = self._outboxes()
        for outbox in outboxes:
            outbox.close()
        limit = life.start(self._give_up(outboxes))
        try:
            await _all([outbox.drain() for outbox in outboxes])
        finally:
            limit.cancel()
            await life.transport.close()

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise Invalid("A client's block can be entered once; make another client.")
        group = await asyncio.TaskGroup().__aenter__()
        ports = self._ports
        transport = ports.transport()
        requests = Requests(transport, ports.clock, ports.rng, self._settings.request_ms_max)
        self._life = _Life(group, transport, requests)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._life is not None
        try:
            await self.close()
        except SendError as unsent:
            if error is None or isinstance(error, Exception):
                raise
            # A cancellation or Ctrl-C goes on being one.
            error.add_note(str(unsent))
        finally:
            # Without the block's error, which the group would wrap into one of its own.
            await self._life.group.__aexit__(None, None, None)

    async def _give_up(self, outboxes: list[Outbox]) -> None:
        ms = self._settings.close_ms_max
        await self._ports.clock.sleep_ms(ms)
        for outbox in outboxes:
            await outbox.give_up(f"The client was closed, and close_ms_max, {ms}, was not enough.")

    def _outboxes(self) -> list[Outbox]:
        return [pipeline.outbox for pipeline in self._pipelines.values() if pipeline.outbox is not None]

    def _made(self, locator: Locator) -> AsyncPipeline:
        ports = self._ports
        sender = Sender(locator, self._requests, self._settings, ports.clock, ports.rng)
        return AsyncPipeline(self, sender, self._settings)

    def _target(self) -> Target:
        environ = self._ports.environment()
        data_dir = Path(self._data_dir or environ.get("PENSTOCK_DATA_DIR") or DATA_DIR_DEFAULT)
        return find_target(data_dir=data_dir, environ=environ, spelling="the argument {}".format, **self._given)

    def _requests(self) -> Requests:
        return self._alive().requests

    def _alive(self) -> _Life:
        if self._life is None:
            raise Invalid("Use the client in its block: `async with penstock.AsyncClient(…) as client:`.")
        return self._life

    def _open(self) -> _Life:
        if self._closed:
            raise Invalid("The client is closed.")
        return self._alive()

    def _new_outbox(self, sender: Sender) -> Outbox:
        return Outbox(sender, self._settings, self._ports.clock, self._open().start)


class AsyncPipeline:
    """One pipeline, as `AsyncClient.pipeline` and `pipeline_at` give it."""

    def __init__(self, client: AsyncClient, sender: Sender, settings: ClientSettings) -> None:
        self._client = client
        self._sender = sender
        self._settings = settings
        #: There is one once something was put.
        self.outbox: Outbox | None = None

    async def send(self, records: Records, *, idempotency_key: str | None = None) -> int:
        """Send records and wait until they are durable; gives how many were stored.

        `records`: dicts, msgspec Structs, dataclasses or the JSON of an object as bytes, mixed as you like; or the
        JSON of an array as bytes. They are sent at once and in order, past those that were put.

        `idempotency_key`, up to 128 printable ASCII characters: sending the same records to the same pipeline with
        the same key stores them once, for 24 hours, also from another process. Without one that holds for the
        retries of this call.

        Raises `Invalid` or `TooLarge` for a record that cannot be sent, before anything is; `SendError` when
        records were refused or `deadline_ms` is over.
        """
        self._client._open()
        if idempotency_key is not None:
            _check_key(idempotency_key)
        encoded = encode_records(records, self._settings.body_bytes_max)
        return await self._sender.send(encoded, idempotency_key)

    async def put(self, record: Record) -> None:
        """Take a record, and send it in the background, with others. Waits only when `buffer_bytes_max` is used up.

        Raises `Invalid` or `TooLarge` if it cannot be sent; `SendError` when records that were put before could not
        be sent: its `records` are these and, last, this one, which is not taken.
        """
        outbox = self.open_outbox()
        await outbox.put(encode_record(record, self._settings.body_bytes_max))

    async def flush(self) -> None:
        """Wait until all that was put before is stored. Raises `SendError` for what was not."""
        if self.outbox is not None:
            await self.outbox.flush()

    async def endpoint(self) -> str:
        """The ingest endpoint. Raises `NotFound` if there is no such pipeline, or another `PenstockError`."""
        self._client._open()
        return (await self._sender.endpoint()).url

    def open_outbox(self) -> Outbox:
        """What `put` puts into. To be called on the client's loop."""
        self._client._open()
        if self.outbox is None:
            self.outbox = self._client._new_outbox(self._sender)
        return self.outbox


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, to the end; then raise the first error, with the others."""
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = []
    for result in results:
        if isinstance(result, SendError):
            errors.append(result)
        elif result is not None:
            raise result
    if errors:
        errors[0].others = errors[1:]
        raise errors[0]


def _check_key(key: str) -> None:
    if not (1 <= len(key) <= CLIENT_KEY_LENGTH_MAX and key.isascii() and key.isprintable()) or key != key.strip():
        raise Invalid(
            f"idempotency_key is {key[: CLIENT_KEY_LENGTH_MAX + 1]!r}; it must have 1 to {CLIENT_KEY_LENGTH_MAX} "
            "printable ASCII characters, and no space at its ends."
        )
