"""The files of a pipeline, seen from outside: what is there, what is in them, how they look as a tree."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.cli.errors import CliError
from penstock.cli.sizes import format_bytes

Record = dict[str, Any]

#: Below a pipeline's folder. A file has this name only once it is complete.
PATTERN = "event_date=*/hr=*/*.json.gz"


def find_files(folder: Path) -> list[Path]:
    """The complete files below `folder`, oldest name first; none when there is no such folder."""
    return sorted(path for path in folder.glob(PATTERN) if not path.name.startswith("."))


def read_records(path: Path) -> list[Record]:
    """Every record of one file. Raises CliError when the file is damaged: it must never be."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CliError(f"{path} is not a complete file of JSON lines: {error}") from None


@dataclass
class Arrivals:
    """Counts the records with a given `id` prefix in files as they appear; a file is read once."""

    folder: Path
    run: str
    ids: Counter[str] = field(default_factory=Counter)
    others: int = 0
    files: dict[Path, int] = field(default_factory=dict)

    def look(self) -> list[Path]:
        """Read the files that are new since the last look, and return them."""
        new = [path for path in find_files(self.folder) if path not in self.files]
        for path in new:
            records = read_records(path)
            self.files[path] = len(records)
            for record in records:
                if (id := str(record.get("id", ""))).startswith(self.run + "-"):
                    self.ids[id] += 1
                else:
                    self.others += 1
        return new

    def problem(self, sent: Iterable[Record]) -> str | None:
        """What is wrong with the arrivals, measured against what was sent; None when each came once."""
        wanted = {str(record["id"]) for record in sent}
        missing = len(wanted - self.ids.keys())
        unknown = len(self.ids.keys() - wanted)
        repeated = sum(count - 1 for count in self.ids.values())
        if not (missing or unknown or repeated):
            return None
        return (
            f"of {len(wanted)} records {missing} are missing, {repeated} came twice, and {unknown} were never sent"
        )


def count_of_records(count: int) -> str:
    return f"{count:,} record" + ("" if count == 1 else "s")


def tree(folder: Path, files: Iterable[Path], counts: dict[Path, int]) -> Iterator[str]:
    """Lines that show `files` below `folder` as a tree, with their sizes and numbers of records."""
    yield f"{folder}/"
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)
    for outer, (parent, children) in enumerate(by_folder.items(), start=1):
        last = outer == len(by_folder)
        yield f"{'└──' if last else '├──'} {parent.relative_to(folder)}/"
        for inner, path in enumerate(children, start=1):
            stem = ("    " if last else "│   ") + ("└──" if inner == len(children) else "├──")
            size = format_bytes(path.stat().st_size)
            yield f"{stem} {path.name}  {size}, {count_of_records(counts.get(path, 0))}"
