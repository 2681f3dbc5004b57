"""A fault at one step after the other, until a run ends without it: SQLite's method, which lists no steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol, TypeVar

import pytest

STEPS_MAX = 3_000


class Story(Protocol):
    """A run with one fault. `fired`: whether it came to it; `problems`: what is wrong after it; `story`: what
    happened."""

    problems: list[str]
    story: list[str]

    @property
    def fired(self) -> bool: ...

    def run(self) -> None: ...


S = TypeVar("S", bound=Story)


class Steps:
    """`stride`: from one step that is tried to the next; 1 is every step. `first`, below it, is where it begins."""

    def __init__(self, stride: int, first: int) -> None:
        self._stride = stride
        self._first = first
        #: The last step that there is; with a stride one of the last.
        self.last = 0

    def numbers(self, stride: int = 1) -> Iterator[int]:
        """The steps that are to be tried, without an end."""
        stride *= self._stride
        return count(1 + self._first % stride, stride)

    def of(self, run: Callable[[int], S], stride: int = 1) -> Iterator[S]:
        """Run the stories of these steps and check each. `stride`: of a story that takes so much longer."""
        for n in self.numbers(stride):
            assert n < STEPS_MAX
            story = run(n)
            story.run()
            if story.problems:
                pytest.fail("\n".join([f"fault at step {n}", *story.problems, *story.story]))
            if not story.fired:
                return
            self.last = n
            yield story

    def through(self, run: Callable[[int], Story], stride: int = 1) -> int:
        """As `of`, to the end; gives the last step."""
        for _ in self.of(run, stride):
            pass
        return self.last
