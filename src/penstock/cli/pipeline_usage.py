"""`penstock pipelines usage`: what went in and out, what waits, what went wrong."""

from __future__ import annotations

from typing import Any

from penstock.cli import output
from penstock.cli.options import DATA_DIR_DEFAULT, AccountId, AsJson, DataDir, Token, Url, connect
from penstock.cli.pipeline_names import Name
from penstock.cli.sizes import format_bytes

Json = dict[str, Any]


def usage(
    name: Name,
    json: AsJson = False,
    url: Url = None,
    account_id: AccountId = None,
    token: Token = None,
    data_dir: DataDir = DATA_DIR_DEFAULT,
) -> None:
    """Show what a pipeline took in and gave out, what waits, and what was refused."""
    found = connect(url, account_id, token, data_dir).pipeline_usage(name)
    if json:
        output.print_json(found)
    else:
        output.print_settings(_rows(found))
    missing = found.get("missing") or {}
    if missing.get("shards"):
        output.progress(f"Not in the sums, as they could not be asked: shards {', '.join(missing['shards'])}.")
    if missing.get("executors"):
        numbers = ", ".join(map(str, missing["executors"]))
        output.progress(f"Not counted since the start, as they did not answer: executors {numbers}.")


def _rows(usage: Json) -> list[tuple[str, str]]:
    came, went = usage.get("in") or {}, usage.get("out") or {}
    backlog, since_start = usage.get("backlog") or {}, usage.get("since_start") or {}
    return [
        ("Since", str(usage.get("created_at", ""))),
        ("Requests", f"{came.get('requests', 0):,}"),
        ("Records in", f"{came.get('records', 0):,}"),
        ("Bytes in", format_bytes(came.get("bytes", 0))),
        ("Files", f"{went.get('files', 0):,}"),
        ("Bytes out", format_bytes(went.get("bytes", 0))),
        ("Records out", f"{went.get('records', 0):,}"),
        ("Dead letters", f"{went.get('dead_records', 0):,}" + _reasons(went.get("dead_reasons"))),
        ("Backlog", f"{backlog.get('records', 0):,} records, {format_bytes(backlog.get('bytes', 0))}"),
        ("Lag", f"{backlog.get('lag_ms', 0) / 1000:.1f} s"),
        ("Refused since start", _counts(since_start.get("refused"))),
        ("Failures since start", f"{since_start.get('delivery_failures', 0):,} tries to deliver"),
    ]


def _counts(by_reason: Json | None) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted((by_reason or {}).items())) or "0"


def _reasons(by_reason: Json | None) -> str:
    return f" ({_counts(by_reason)})" if by_reason else ""
