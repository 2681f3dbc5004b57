"""The argument that says which pipeline a command is about."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline, or its id.")]
