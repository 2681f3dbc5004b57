"""The memory that bodies of requests take, of all requests of an executor together."""

from __future__ import annotations

from types import TracebackType

from penstock.base.errors import Overloaded


class Inflight:
    """`bytes` of bodies are in memory now. Whoever adds some removes them again, also after a refusal."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max

    def add(self, size: int) -> None:
        """Raises `Overloaded`, with the bytes counted, when they are too many."""
        self.bytes += size
        if self.bytes > self._bytes_max:
            raise Overloaded(
                f"Too many request bytes await being written (inflight_bytes_max is {self._bytes_max}). Nothing of "
                "this request was stored; send it again later.",
                retry_after_s=1,
            )

    def remove(self, size: int) -> None:
        self.bytes -= size


class InflightShare:
    """What one request has in memory. Use it in a `with` block, whose end gives all of it back."""

    __slots__ = ("_bytes", "_inflight")

    def __init__(self, inflight: Inflight) -> None:
        self._inflight = inflight
        self._bytes = 0

    def add(self, size: int) -> None:
        """Raises `Overloaded`."""
        self._bytes += size
        self._inflight.add(size)

    def remove(self, size: int) -> None:
        self._bytes -= size
        self._inflight.remove(size)

    def __enter__(self) -> InflightShare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inflight.remove(self._bytes)
