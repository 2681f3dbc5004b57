"""Where a file goes in its bucket. Pure.

Hive style, times in UTC, so that query engines prune by partition:

    {prefix/}event_date=2026-11-23/hr=14/01JDCM….json.gz
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

Compression = Literal["none", "gzip"]

_EXTENSIONS: dict[Compression, str] = {"none": ".json", "gzip": ".json.gz"}


def file_key(prefix: str, received_ms: int, ulid: str, compression: Compression) -> str:
    """The key of a file whose first record came at `received_ms`. `prefix` has no slash at either end."""
    hour = datetime.fromtimestamp(received_ms / 1000, UTC)
    path = f"event_date={hour:%Y-%m-%d}/hr={hour:%H}/{ulid}{_EXTENSIONS[compression]}"
    return f"{prefix}/{path}" if prefix else path
