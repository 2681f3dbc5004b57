"""What goes to stdout and stderr, and how it looks.

Nothing is ever wrapped or cut: an id or a URL must survive copying, and a pipe has no width. Colours are
rich's business, which knows about terminals and NO_COLOR.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    from rich.console import Console

    # So wide that a table takes its natural width; the terminal itself breaks what is longer.
    return Console(width=10_000, highlight=False, markup=False, emoji=False)


def progress(line: str) -> None:
    """Say what is going on, on stderr."""
    typer.echo(line, err=True)


def print_error(message: str) -> None:
    # Not by rich, as nothing else here needs it; typer knows about terminals, but not about NO_COLOR.
    color = False if os.environ.get("NO_COLOR") else None
    typer.echo(f"{typer.style('error:', fg=typer.colors.RED, bold=True)} {message}", err=True, color=color)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_settings(rows: Iterable[tuple[str, str]]) -> None:
    """Two aligned columns: what it is, and its value."""
    _print_grid([], list(rows), first_style="cyan", indent=2)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), indent: int = 0
) -> None:
    """Aligned columns under a heading; those named in `right` are numbers."""
    _print_grid(columns, rows, right=right, indent=indent)


def _print_grid(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    first_style: str = "",
    indent: int,
) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(cell) for cell in row] for row in rows]
    table = Table(box=None, show_header=bool(columns), header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for index in range(len(columns) or max(map(len, cells), default=0)):
        name = columns[index] if columns else ""
        table.add_column(
            name,
            justify="right" if name in right else "left",
            style=first_style if index == 0 else "",
            no_wrap=True,
        )
    for row in cells:
        table.add_row(*row)
    stdout().print(Padding(table, (0, 0, 0, indent), expand=False))
