"""The command itself: its groups and `--version`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli import (
    objects,
    output,
    pipeline_tail,
    pipeline_usage,
    pipelines,
    query,
    replay,
    serve,
    tokens,
    verify,
)
from penstock.cli.demo.command import demo

app = typer.Typer(
    name="penstock",
    help="Durable event ingestion, and durable objects of your own.",
    no_args_is_help=True,
    # A traceback of ours is for a bug report: complete and plain.
    pretty_exceptions_enable=False,
    # rich leaves bold and dim where it leaves colours out.
    rich_markup_mode=None if output.no_color() else "rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("demo")(demo)
app.command("token")(pipelines.print_token)
app.command("query")(query.query)
pipelines.app.command("verify")(verify.verify)
pipelines.app.command("replay")(replay.replay)
pipelines.app.command("usage")(pipeline_usage.usage)
pipelines.app.command("tail")(pipeline_tail.tail)
app.add_typer(pipelines.app, name="pipelines")
app.add_typer(tokens.app, name="tokens")
app.add_typer(objects.app, name="objects")
