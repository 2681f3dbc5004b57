"""How to call this very command, ready to paste into another terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def own_command() -> str:
    """`penstock` when that is what a shell would find, else the full path of what is running."""
    called, found = sys.argv[0], shutil.which("penstock")
    if found and os.path.realpath(found) == os.path.realpath(called):
        return "penstock"
    if Path(called).name == "penstock" and Path(called).is_file():
        return shlex.quote(str(Path(called).absolute()))
    return f"{shlex.quote(sys.executable)} -m penstock"


def data_dir_flag(data_dir: Path) -> str:
    """` --data-dir …` for a command that runs in any folder."""
    return f" --data-dir {shlex.quote(str(data_dir.absolute()))}"
