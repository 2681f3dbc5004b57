"""The memory that bodies of requests take, of all requests of an executor together."""

from __future__ import annotations

from types import TracebackType

from penstock.base.errors import Overloaded


class Inflight:
    """`bytes` of bodies are in memory now. Whoever adds some removes them again, also after a refusal.

    The first half is for whoever comes first. Of the second half each has a fair share, by what it belongs to (a
    pipeline, the objects): so one whose clients send more than is written never keeps out another."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._bytes_of: dict[str, int] = {}

    def add(self, owner: str, size: int) -> None:
        """Raises `Overloaded`, with the bytes counted, when they are too many."""
        self.bytes += size
        owned = self._bytes_of[owner] = self._bytes_of.get(owner, 0) + size
        if self.bytes > self._bytes_max // 2 and self._is_too_much(owned):
            raise Overloaded(
                f"Too many request bytes await being written (inflight_bytes_max is {self._bytes_max}, of which "
                "each pipeline may have its share). Nothing of this request was stored; send it again later.",
                retry_after_s=1,
            )

    def _is_too_much(self, owned: int) -> bool:
        if self.bytes > self._bytes_max:
            return True
        others = len(self._bytes_of) - 1
        return others > 0 and owned > self._bytes_max // (2 * (others + 1))

    def remove(self, owner: str, size: int) -> None:
        self.bytes -= size
        left = self._bytes_of.get(owner, 0) - size
        if left > 0:
            self._bytes_of[owner] = left
        else:
            self._bytes_of.pop(owner, None)


class InflightShare:
    """What one request has in memory. Use it in a `with` block, whose end gives all of it back."""

    __slots__ = ("_bytes", "_inflight", "_owner")

    def __init__(self, inflight: Inflight, owner: str) -> None:
        self._inflight = inflight
        self._owner = owner
        self._bytes = 0

    def add(self, size: int) -> None:
        """Raises `Overloaded`."""
        self._bytes += size
        self._inflight.add(self._owner, size)

    def remove(self, size: int) -> None:
        self._bytes -= size
        self._inflight.remove(self._owner, size)

    def __enter__(self) -> InflightShare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inflight.remove(self._owner, self._bytes)
