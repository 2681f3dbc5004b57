"""What went wrong in which objects, for whoever looks after them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from penstock.base.limits import FAILURE_TEXT_LENGTH_MAX, FAILURES_KEPT_MAX


@dataclass(slots=True)
class Failure:
    """Of one object since the executor started: how often, and the last time."""

    count: int
    text: str
    at_ms: int


class FailureLog:
    """The objects that failed last. In memory only, and bounded: one that failed long ago and not since makes room
    for those that fail now."""

    def __init__(self) -> None:
        #: By namespace and key.
        self._by_object: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def note(self, object: tuple[str, str], error: BaseException, now_ms: int) -> None:
        text = f"{type(error).__name__}: {error}"[:FAILURE_TEXT_LENGTH_MAX]
        before = self._by_object.pop(object, None)
        self._by_object[object] = Failure((before.count if before else 0) + 1, text, now_ms)
        while len(self._by_object) > FAILURES_KEPT_MAX:
            self._by_object.popitem(last=False)

    def of(self, namespace: str, key: str) -> Failure | None:
        return self._by_object.get((namespace, key))
