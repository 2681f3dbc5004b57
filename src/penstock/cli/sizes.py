"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def parse_bytes(text: str) -> int:
    """`5000000`, `5MB` (decimal) or `64MiB` (binary), as a number of bytes; ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def format_bytes(count: int) -> str:
    """The shortest exact spelling where there is one (`64MiB`), else one decimal (`1.3 kB`)."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB"):
        scale = _UNITS[unit.lower()]
        if count >= scale and count % scale == 0:
            return f"{count // scale}{unit}"
    return format_measured(count)


def format_measured(count: int) -> str:
    """A size that nobody chose, with one decimal (`1.3 kB`), so that a column of them can be compared."""
    for unit, scale in (("GB", 1000**3), ("MB", 1000**2), ("kB", 1000)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
