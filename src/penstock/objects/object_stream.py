"""The stream that an object's method gives, on its way out of the object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack

from penstock.base.errors import PenstockError
from penstock.objects.committer import Committer
from penstock.objects.streams import close, own_bytes
from penstock.objects.work import Work, is_from_outside


class ObjectStream:
    """Gives each chunk, the end and an error when it may be seen: when everything that the object wrote before is
    durable. `failure` says what is to be raised for an error of the object's code; `kept` keeps the object in
    memory, until whoever got the stream closes it."""

    def __init__(
        self,
        source: AsyncIterator[bytes],
        committer: Committer,
        work: Work,
        failure: Callable[[BaseException], Awaitable[PenstockError]],
        kept: AbstractContextManager[None],
    ) -> None:
        self._source = source
        self._committer = committer
        self._work = work
        self._failure = failure
        self._kept = ExitStack()
        self._kept.enter_context(kept)

    def __aiter__(self) -> ObjectStream:
        return self

    async def __anext__(self) -> bytes:
        """Raises `PenstockError`s only, and `StopAsyncIteration`."""
        if self._committer.broken is not None:
            raise self._committer.broken
        try:
            chunk = own_bytes(await self._work.run(self._source.__anext__()))
        except StopAsyncIteration:
            await self._committer.wait_durable()
            raise
        except BaseException as error:
            if is_from_outside(error):
                raise
            raise await self._failure(error)
        await self._committer.wait_durable()
        return chunk

    async def aclose(self) -> None:
        try:
            await close(self._source)
        finally:
            self._kept.close()
