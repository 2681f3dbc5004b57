"""Asks the server to prove what the test's own audit says: that each record it accepted is in exactly one file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .server import ServerTree


@dataclass
class Verdict:
    #: Of all shards: accepted, in_files, pending, files, delivered, dead.
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Any] = field(default_factory=list)

    def disagreements(self, records: int, files: int, dead: int) -> list[str]:
        """Where it says something else than who read `records` in `files`, `dead` of them refused; each record that
        comes in is to go out, as itself or as a dead letter."""
        found = [f"verify: {problem}" for problem in self.problems]
        for name, seen in (
            ("accepted", records),
            ("in_files", records),
            ("pending", 0),
            ("files", files),
            ("delivered", records - dead),
            ("dead", dead),
        ):
            if self.counts[name] != seen:
                found.append(f"verify: {name} is {self.counts[name]}, but there are {seen}")
        return found


def verify(server: ServerTree, name: str) -> Verdict:
    """As `penstock pipelines verify NAME --deep`. Blocks."""
    verdict, cursor = Verdict(), ""
    while True:
        query = urlencode({"deep": "true", **({"cursor": cursor} if cursor else {})})
        step = server.result("GET", f"/{name}/verify?{query}")
        for shard in step["checked"]["shards"]:
            verdict.counts.update({key: value for key, value in shard.items() if isinstance(value, int)})
        verdict.problems += step["problems"]
        cursor = step["cursor"]
        if cursor is None:
            return verdict
