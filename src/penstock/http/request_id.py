"""Request ids: what ties an answer to its log lines."""

from __future__ import annotations

from penstock.base.rng import Rng


class RequestIds:
    """Eight random hexadecimal digits per process, then a counter: unique without a random number each time."""

    def __init__(self, rng: Rng) -> None:
        self._prefix = b"%08x" % rng.getrandbits(32)
        self._count = 0

    def next(self) -> bytes:
        self._count += 1
        return b"%s-%x" % (self._prefix, self._count)
