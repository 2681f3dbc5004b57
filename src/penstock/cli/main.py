"""The entry point of the `penstock` script, and what happens to errors.

It imports next to nothing by itself: Ctrl-C in the first moment is to end the command, not to show a traceback from
the middle of an import.
"""

from __future__ import annotations

import errno
import os
import sys

#: What a standard stream says that leads to a full disk, a closed pipe or a terminal that is gone.
_STREAM_ERRORS = (errno.ENOSPC, errno.EPIPE, errno.EIO)


def main() -> None:
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> int:
    from penstock.cli import output
    from penstock.cli.app import app
    from penstock.cli.errors import CliError

    for stream in (sys.stdout, sys.stderr):
        # An old terminal that has no 🌀 gets a question mark, not an exception.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        try:
            app()
        except SystemExit as end:
            if sys.stdout is not None:
                sys.stdout.flush()
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    except CliError as error:
        output.print_error(str(error))
        return error.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in _STREAM_ERRORS:
            raise
        # What is still buffered would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            output.print_error(f"cannot write the output ({error.strerror})")
        return 1
    return 0
