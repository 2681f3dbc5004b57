"""What goes to stdout and stderr, and how it looks.

Nothing is ever wrapped or cut: an id or a URL must survive copying, and a pipe has no width. With NO_COLOR there is
no escape sequence at all, not even for bold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    from rich.console import Console

    # So wide that a table takes its natural width; the terminal itself breaks what is longer.
    colors: Literal["auto"] | None = None if no_color() else "auto"
    return Console(width=10_000, highlight=False, markup=False, emoji=False, color_system=colors)


def progress(line: str) -> None:
    """Say what is going on, on stderr."""
    typer.echo(line, err=True)


def no_color() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def error_line(message: str) -> str:
    # Not by rich, as nothing else here needs it.
    word = "error:" if no_color() else typer.style("error:", fg=typer.colors.RED, bold=True)
    return f"{word} {message}"


def print_error(message: str) -> None:
    # typer takes the colour away where there is no terminal.
    typer.echo(error_line(message), err=True)


def printable(text: str) -> str:
    """Names and values may come from anybody: nothing in them may command the terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


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
    console = stdout()
    with console.capture() as captured:
        console.print(Padding(table, (0, 0, 0, indent), expand=False))
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())
