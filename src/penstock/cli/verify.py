"""`penstock pipelines verify`: is each accepted record in exactly one file?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.errors import CliError, NotVerified
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.pipeline_names import Name
from penstock.cli.sizes import format_bytes
from penstock.cli.steps import patiently

Json = dict[str, Any]

Deep = Annotated[
    bool, typer.Option("--deep", help="Read every file: its SHA-256 and lines, not only that it is there.")
]

#: Problems of a kind that are shown one by one.
_SHOWN_MAX = 10
#: What to do about each kind.
_ADVICE = {
    "missing": "restore it from a backup or the bucket's versions; look for a lifecycle rule that deletes",
    "extra": "if it is a copy, remove it: whoever reads the bucket counts its records twice",
    "size": "restore it: it was replaced or cut after it was delivered",
    "checksum": "restore it: it was changed after it was delivered",
    "count": "keep the file and the data directory, and report a bug",
    "gap": "keep the data directory, and report a bug",
    "overlap": "keep the data directory, and report a bug",
}


def verify(
    name: Name,
    deep: Deep = False,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Prove that each accepted record is in exactly one file.

    Exit code 0: proven. 1: there are problems. 2: it could not be verified.
    """
    try:
        client = connect(url, account_id, token, data_dir)
        name = str(client.get_pipeline(name).get("name", name))
        report = Report()
        cursor: str | None = ""
        while cursor is not None:
            at = cursor
            step = patiently(lambda at=at: client.verify_pipeline(name, at, deep))  # type: ignore[misc]
            report.add(step)
            cursor = step.get("cursor")
    except NotVerified:
        raise
    except CliError as error:
        raise NotVerified(f"{name} could not be verified: {error}") from None
    if json:
        output.print_json(report.as_json())
    else:
        _show(report)
    if report.found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.found.items()))
        raise CliError(f"{name} is not as it should be: {kinds}")
    if not json:
        typer.echo(f"✅ {_verdict(name, report.total(), deep)}")


class Report:
    """The sum of all steps."""

    def __init__(self) -> None:
        self.shards: dict[str, Json] = {}
        self.buckets: Json = {}
        self.found: dict[str, int] = {}
        self._shown: dict[str, list[Json]] = {}

    @property
    def problems(self) -> list[Json]:
        """The first `_SHOWN_MAX` of each kind."""
        return [problem for problems in self._shown.values() for problem in problems]

    def add(self, step: Json) -> None:
        checked = step.get("checked") or {}
        for shard in checked.get("shards") or []:
            _add(self.shards.setdefault(str(shard.get("shard")), {}), shard)
        _add(self.buckets, checked.get("buckets") or {})
        for problem in step.get("problems") or []:
            kind = str(problem.get("kind"))
            self.found[kind] = self.found.get(kind, 0) + 1
            shown = self._shown.setdefault(kind, [])
            if len(shown) < _SHOWN_MAX:
                shown.append(problem)

    def total(self) -> Json:
        total: Json = {}
        for shard in self.shards.values():
            _add(total, shard)
        return total

    def as_json(self) -> Json:
        return {
            "proven": not self.found,
            "shards": list(self.shards.values()),
            "buckets": self.buckets,
            "found": self.found,
            "problems": self.problems,
        }


def _add(total: Json, part: Json) -> None:
    for name, value in part.items():
        total[name] = total.get(name, 0) + value if isinstance(value, int) and name != "version" else value


def _show(report: Report) -> None:
    rows = [
        [
            str(shard.get("version")),
            str(shard.get("shard", "")).partition("/")[2],
            str(shard.get("state")),
            *(
                f"{shard.get(name, 0):,}"
                for name in ("accepted", "in_files", "pending", "delivered", "dead", "files")
            ),
            format_bytes(shard.get("bytes", 0)),
        ]
        for shard in report.shards.values()
    ]
    columns = ["VERSION", "SHARD", "STATE", "ACCEPTED", "IN-FILES", "PENDING", "DELIVERED", "DEAD", "FILES", "SIZE"]
    output.print_table(columns, rows, right=columns[3:])
    typer.echo("")
    for kind, count in sorted(report.found.items()):
        typer.echo(f"❌ {count} {kind}: {_ADVICE.get(kind, 'see the message')}")
        shown = [problem for problem in report.problems if problem.get("kind") == kind]
        for problem in shown:
            where = "/".join(str(problem[part]) for part in ("bucket", "key") if problem.get(part))
            typer.echo(f"   {where or problem.get('shard', '')}: {problem.get('message', '')}")
        if count > len(shown):
            typer.echo(f"   … and {count - len(shown)} more")


def _verdict(name: str, total: Json, deep: bool) -> str:
    parts = [f"each of {total.get('in_files', 0):,} records is in exactly one file"]
    if deep:
        parts.append(f"{total.get('files', 0):,} files were read")
    if total.get("pending"):
        parts.append(f"{total['pending']:,} records wait for one")
    if total.get("before_ledger"):
        parts.append(f"{total['before_ledger']:,} were delivered before the ledger begins and cannot be proven")
    return f"{name}: " + "; ".join(parts)
