"""`penstock pipelines replay`: sends dead letters again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from penstock.cli import output
from penstock.cli.errors import CliError, WrongFlag
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.pipeline_names import Name
from penstock.cli.steps import patiently, wait

Json = dict[str, Any]

Since = Annotated[
    str,
    typer.Option(
        help="Only what died since: a time, like 2026-11-23T00:00 (UTC) or with an offset, or how long ago, like "
        "30m, 2h or 7d.",
    ),
]
Reason = Annotated[str | None, typer.Option(help="Only records that are dead by this reason.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def replay(
    name: Name,
    since: Since,
    reason: Reason = None,
    dry_run: DryRun = False,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Send the records of dead-letter files to the pipeline again, each once."""
    body: Json = {"since": parse_since(since, datetime.now(UTC)), "dry_run": dry_run}
    if reason is not None:
        body["reason"] = reason
    client = connect(url, account_id, token, data_dir)
    name = str(client.get_pipeline(name).get("name", name))
    reasons: dict[str, int] = {}
    sent: Json = {"files": 0, "records": 0, "reasons": reasons}
    skipped: list[Json] = []
    while True:
        step = patiently(lambda: client.replay_pipeline(name, body))
        replayed = step.get("replayed") or {}
        sent["files"] += replayed.get("files", 0)
        sent["records"] += replayed.get("records", 0)
        for each, count in (replayed.get("reasons") or {}).items():
            reasons[each] = reasons.get(each, 0) + count
        skipped += step.get("skipped") or []
        if not step.get("cursor"):
            break
        body["cursor"] = step["cursor"]
        if (seconds := step.get("retry_after_s")) is not None:
            wait(seconds, str(step.get("waits_for", "")))
    if json:
        output.print_json({"replayed": sent, "skipped": skipped})
    else:
        _show(sent, skipped, dry_run)
    if skipped:
        raise CliError(f"{len(skipped)} dead-letter files were not sent")


def parse_since(text: str, now: datetime) -> str:
    """RFC 3339 of a time, or of a time ago. Raises `WrongFlag`."""
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
            at = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return at.astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise WrongFlag(
            f"--since {text!r} is no time: give one like 2026-11-23T00:00, or how long ago like 30m, 2h or 7d"
        ) from None


def _show(sent: Json, skipped: list[Json], dry_run: bool) -> None:
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in sorted(sent["reasons"].items()))
    did = "Would send" if dry_run else "✅ Sent"
    typer.echo(
        f"{did} {sent['records']:,} records of {sent['files']:,} dead-letter files" + _in_brackets(by_reason)
    )
    for each in skipped:
        typer.echo(f"❌ {each.get('key')}: {each.get('message')}")


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
