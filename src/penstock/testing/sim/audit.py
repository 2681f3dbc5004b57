"""What became of numbered records: as their senders know it, and as the files show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from msgspec import json

from penstock.pipelines.compression import decompress
from penstock.pipelines.dead_letters import read_dead_letters
from penstock.pipelines.layout import DEAD_FOLDER, Compression

_COMPRESSIONS: dict[str, Compression] = {"json": "none", "gz": "gzip", "deflate": "deflate", "zst": "zstd"}


@dataclass(slots=True)
class Ledger:
    """What became of each record, by its number, as far as the clients know."""

    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)

    def problems(self, found: Counter[int]) -> list[str]:
        """What is wrong with the files, in words; empty if nothing is."""
        known = self.acknowledged | self.refused | self.unknown
        wrong = {
            "acknowledged, but in no file": self.acknowledged - found.keys(),
            "in the files more than once": {number for number, times in found.items() if times > 1},
            "refused, but in a file": self.refused & found.keys(),
            "in a file, but never sent": found.keys() - known,
        }
        return [f"{len(numbers)} {what}: {sorted(numbers)[:10]}" for what, numbers in wrong.items() if numbers]


def read_records(files: dict[str, bytes]) -> Counter[int]:
    """How often each record number is in the files of a bucket, whatever their compression, be it as a dead
    letter."""
    found: Counter[int] = Counter()
    for key, content in files.items():
        found.update(numbers_in(key, content))
    return found


def numbers_in(key: str, content: bytes) -> list[int]:
    """The numbers of the records in one file."""
    ndjson = decompress(content, _COMPRESSIONS[key.rpartition(".")[2]])
    if is_dead(key):
        return [json.decode(letter.record)["n"] for letter in read_dead_letters(ndjson)]
    return [json.decode(line)["n"] for line in ndjson.splitlines()]


def is_dead(key: str) -> bool:
    """Whether a file is one of dead letters."""
    return DEAD_FOLDER in key.split("/")
