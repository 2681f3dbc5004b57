"""Buckets elsewhere: the S3 protocol, by way of obstore (the Rust crate `object_store`). Nothing else imports it.

An object of up to one part is one PUT; a larger one is a multipart upload, which the server shows to nobody until
it is complete. The client takes an upload back when its bytes cannot be made, when a part fails for good, and when
we stop it. Two things stay, as parts that nobody sees: an upload whose process died, since the client can neither
list nor take back what it did not begin; and, with some servers, a part that was on its way when its upload was
taken back. A bucket's lifecycle rule removes them (docs/how-to/deliver-to-s3.md).

What the client reads from the environment by itself (`AWS_…`) is overruled: a connection is all that counts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import S3Store as Client

from penstock.base.errors import BucketNotFound, NotFound, Unavailable
from penstock.base.limits import (
    S3_ABORT_SECONDS_MAX,
    S3_CLIENTS_MAX,
    S3_CONNECT_SECONDS_MAX,
    S3_PART_BYTES,
    S3_PARTS_MAX,
    S3_REQUEST_SECONDS_MAX,
    S3_RETRIES_MAX,
    S3_RETRY_SECONDS_MAX,
    S3_UPLOADS_MAX,
    S3_UPLOADS_PER_CONNECTION_MAX,
)
from penstock.storage.connection import S3Connection, S3Credentials, open_credentials
from penstock.storage.object_store import Chunks, ObjectInfo
from penstock.storage.offload import Offload
from penstock.storage.s3_failure import S3Request, failure
from penstock.storage.s3_parts import Parts
from penstock.storage.secrets import Secrets

if TYPE_CHECKING:
    from obstore.store import S3Credential


class S3Pool:
    """Implements `S3Stores`: the stores that this process uses, the least used of which are forgotten."""

    def __init__(self, secrets: Secrets, offload: Offload) -> None:
        self._secrets = secrets
        self._offload = offload
        self._stores: OrderedDict[S3Connection, S3Store] = OrderedDict()
        self._uploads = asyncio.Semaphore(S3_UPLOADS_MAX)

    def at(self, connection: S3Connection) -> S3Store:
        store = self._stores.get(connection)
        if store is None:
            credentials = open_credentials(self._secrets, connection)
            store = self._stores[connection] = S3Store(connection, credentials, self._offload, self._uploads)
            if len(self._stores) > S3_CLIENTS_MAX:
                self._stores.popitem(last=False)
        self._stores.move_to_end(connection)
        return store


class S3Store:
    """Implements `ObjectStore`. `uploads` bounds what all stores of a process send at once."""

    def __init__(
        self, connection: S3Connection, credentials: S3Credentials, offload: Offload, uploads: asyncio.Semaphore
    ) -> None:
        self._connection = connection
        self._credentials = credentials
        self._offload = offload
        self._uploads = uploads
        self._own_uploads = asyncio.Semaphore(S3_UPLOADS_PER_CONNECTION_MAX)
        #: A client has one bucket.
        self._clients: OrderedDict[str, Client] = OrderedDict()

    async def put(self, bucket: str, key: str, chunks: Chunks) -> int:
        client, request = self._client(bucket), self._request("put", bucket, key)
        async with self._own_uploads, self._uploads, _closing(Parts(chunks, self._offload, S3_PART_BYTES)) as parts:
            first = await parts.next()
            second = await parts.next() if len(first) == S3_PART_BYTES else b""
            if second:
                await _Upload(client, key, request, parts).run([first, second])
            else:
                with _failures(request):
                    await obstore.put_async(client, key, first, use_multipart=False)
            return parts.size_bytes

    async def get(self, bucket: str, key: str) -> bytes:
        with _failures(self._request("get", bucket, key)):
            result = await obstore.get_async(self._client(bucket), key)
            return bytes(await result.bytes_async())

    async def read(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        # One request for each piece, not one for all: that would have to be over within the time of one request.
        client, request = self._client(bucket), self._request("get", bucket, key)
        with _failures(request):
            meta = await obstore.head_async(client, key)
        for start in range(0, meta["size"], S3_PART_BYTES):
            end = min(start + S3_PART_BYTES, meta["size"])
            options: obstore.GetOptions = {"range": (start, end), "if_match": meta["e_tag"]}
            with _failures(request):
                result = await obstore.get_async(client, key, options=options)
                piece = bytes(await result.bytes_async())
            yield piece

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        try:
            with _failures(self._request("get", bucket, key)):
                meta = await obstore.head_async(self._client(bucket), key)
        except NotFound:
            return None
        return ObjectInfo(key, meta["size"])

    async def delete(self, bucket: str, key: str) -> None:
        try:
            with _failures(self._request("delete", bucket, key)):
                await obstore.delete_async(self._client(bucket), key)
        except BucketNotFound:
            raise
        except NotFound:
            return

    async def list(
        self, bucket: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Sequence[ObjectInfo]:
        # The client's prefixes are whole folders: it is asked for the folder, from where the keys wanted begin.
        folder = prefix.rpartition("/")[0]
        start = max(after, _just_below(prefix))
        found: list[ObjectInfo] = []
        with _failures(self._request("list", bucket)):
            async for page in self._client(bucket).list(folder or None, offset=start or None):
                for meta in page:
                    key = meta["path"]
                    if key.startswith(prefix) and key > after:
                        found.append(ObjectInfo(key, meta["size"]))
                    if len(found) == limit or (key > prefix and not key.startswith(prefix)):
                        return found
        return found

    def _request(self, verb: str, bucket: str, key: str | None = None) -> S3Request:
        return S3Request(self._connection.endpoint, verb, bucket, key)

    def _client(self, bucket: str) -> Client:
        client = self._clients.get(bucket)
        if client is None:
            client = self._clients[bucket] = _client(self._connection, self._credentials, bucket)
            if len(self._clients) > S3_CLIENTS_MAX:
                self._clients.popitem(last=False)
        self._clients.move_to_end(bucket)
        return client


class _Upload:
    """One multipart upload. Its own task, because the client forgets an upload whose call is cancelled: to take it
    back it has to be told by what it reads from."""

    def __init__(self, client: Client, key: str, request: S3Request, parts: Parts) -> None:
        self._client = client
        self._key = key
        self._request = request
        self._parts = parts
        self._stopped = False
        self._chunks_error: BaseException | None = None

    async def run(self, begun: list[bytes]) -> None:
        error: BaseException | None = None

        async def upload() -> None:
            nonlocal error
            try:
                with _failures(self._request):
                    await obstore.put_async(
                        self._client,
                        self._key,
                        self._feed(begun),
                        use_multipart=True,
                        chunk_size=S3_PART_BYTES,
                        max_concurrency=S3_PARTS_MAX,
                    )
            except Exception as raised:  # noqa: BLE001 - raised below, as itself and not in a group
                error = raised

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(upload())
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                self._stopped = True
                await self._parts.close()  # at once: who cancels may be about to close what the bytes come from
                await asyncio.wait([task], timeout=S3_ABORT_SECONDS_MAX)
                raise
        if self._chunks_error is not None:
            raise self._chunks_error
        if error is not None:
            raise error

    async def _feed(self, begun: list[bytes]) -> AsyncIterator[bytes]:
        while begun:
            yield begun.pop(0)
        try:
            while not self._stopped and (part := await self._parts.next()):
                yield part
        except Exception as error:
            self._chunks_error = error
            raise
        if self._stopped:
            raise _Stopped


class _Stopped(Exception):
    """Makes the client take an upload back."""


@asynccontextmanager
async def _closing(parts: Parts) -> AsyncIterator[Parts]:
    try:
        yield parts
    finally:
        await parts.close()


@contextmanager
def _failures(request: S3Request) -> Iterator[None]:
    try:
        yield
    except PreconditionError:
        raise Unavailable(
            f"Could not {request}: it was replaced meanwhile. Read it again.", retry_after_s=1
        ) from None
    except (BaseError, FileNotFoundError, PermissionError, OSError, ValueError) as error:
        # Without its cause, whose text is the server's.
        raise failure(request, str(error)) from None


def _just_below(prefix: str) -> str:
    """A key less than all that start with `prefix`, and greater than about all that are less than those."""
    if not prefix:
        return ""
    last = ord(prefix[-1]) - 1
    return prefix[:-1] + (chr(last) + "~" if 0x20 <= last < 0x7F else "")


def _client(connection: S3Connection, credentials: S3Credentials, bucket: str) -> Client:
    endpoint = connection.endpoint
    if not connection.path_style:
        url = urlsplit(endpoint)
        endpoint = url._replace(netloc=f"{bucket}.{url.netloc}").geturl()

    def credential() -> S3Credential:
        return {
            "access_key_id": credentials.access_key_id,
            "secret_access_key": credentials.secret_access_key,
            "token": None,
            "expires_at": None,
        }

    return Client(
        bucket,
        config={
            # Each overrules a variable of the environment.
            "aws_endpoint_url_s3": endpoint,
            "endpoint": endpoint,
            "region": connection.region,
            "virtual_hosted_style_request": not connection.path_style,
            "skip_signature": False,
            "s3_express": False,
            "unsigned_payload": False,
            "request_payer": False,
            # Plain DELETE: not every server has the other one.
            "disable_bulk_delete": True,
        },
        client_options={
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=S3_CONNECT_SECONDS_MAX),
            "timeout": timedelta(seconds=S3_REQUEST_SECONDS_MAX),
            "user_agent": "penstock",
        },
        retry_config={
            "max_retries": S3_RETRIES_MAX,
            "retry_timeout": timedelta(seconds=S3_RETRY_SECONDS_MAX),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=3),
                "base": 2,
            },
        },
        # Not in `config`, which the client shows to whoever prints it.
        credential_provider=credential,
    )
