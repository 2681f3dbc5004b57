"""Has the server prove what the test's own audit says: that each record it accepted is in exactly one file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_DEADLINE_S = 300


@dataclass(frozen=True)
class Verdict:
    #: Of all shards: accepted, in_files, pending, files, delivered, dead.
    counts: Counter[str]
    problems: list[str]

    def disagreements(self, records: int, files: int, dead: int) -> list[str]:
        """Where it says something else than who read `records` in `files`, `dead` of them refused. No transform
        here drops or adds a record: each that comes in is to go out, as itself or as a dead letter."""
        seen = {
            "accepted": records,
            "in_files": records,
            "pending": 0,
            "before_ledger": 0,
            "files": files,
            "delivered": records - dead,
            "dead": dead,
        }
        wrong = [
            f"verify: {name} is {self.counts[name]}, but there are {count}"
            for name, count in seen.items()
            if self.counts[name] != count
        ]
        return self.problems + wrong


def verify(data: Path, name: str) -> Verdict:
    """`penstock pipelines verify NAME --deep`. Blocks."""
    words = ["pipelines", "verify", name, "--deep", "--json", "--data-dir", str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *words], capture_output=True, text=True, timeout=_DEADLINE_S
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return Verdict(Counter(), [f"verify could not: exit code {done.returncode}, {done.stderr[-2000:]}"])
    counts: Counter[str] = Counter()
    for shard in said["shards"]:
        counts.update({key: value for key, value in shard.items() if isinstance(value, int)})
    problems = [f"verify: {problem}" for problem in said["problems"]]
    if done.returncode or not said["proven"]:
        problems.append(f"verify: exit code {done.returncode}, found {said['found']}: {done.stderr[-2000:]}")
    return Verdict(counts, problems)
