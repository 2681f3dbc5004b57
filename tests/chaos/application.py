"""What the server of a run is given by `--app`: a transform that refuses some records and marks all others."""

from __future__ import annotations

from typing import Any

from penstock import App

#: Records with a number that this divides are refused.
REFUSED_EACH = 97

app = App()


@app.transform("shaped", deadline_ms=30_000)
def shaped(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for record in records:
        if record["sequence"] % REFUSED_EACH == 0:
            raise ValueError("it is one of those that are refused")
    return [record | {"shaped": True} for record in records]
