"""Where a file goes in its bucket. Pure.

By default Hive style, times in UTC, so that query engines prune by partition:

    {prefix/}event_date=2026-11-23/hr=14/01JDCM….json.gz

`filepath` and `filename` are templates with the variables of Cloudflare's legacy pipelines, and some more:

    ${date} 2026-11-23   ${year} ${month} ${day} ${hr} ${minute}   of the records' time, UTC
    ${slug}              the file's ULID: what makes its name unique, so a file's name must have it
    ${extension}         .json, .json.gz, .json.zst, .json.deflate
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

Compression = Literal["none", "gzip", "deflate", "zstd"]

FILEPATH_DEFAULT = "event_date=${date}/hr=${hr}"
FILENAME_DEFAULT = "${slug}${extension}"
#: Below the prefix: what could not be delivered as it should.
DEAD_FOLDER = "_dead"

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

_EXTENSIONS: dict[Compression, str] = {
    "none": ".json",
    "gzip": ".json.gz",
    "deflate": ".json.deflate",
    "zstd": ".json.zst",
}
#: The variables that tell a time, with the shortest time for which each keeps its value. (Longer ones than a day
#: are cut by days as well.)
_TIMES = {"date": DAY_MS, "year": DAY_MS, "month": DAY_MS, "day": DAY_MS, "hr": HOUR_MS, "minute": MINUTE_MS}
_NAMES = ("slug", "extension")
_PATTERNS = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "year": r"\d{4}",
    "month": r"\d{2}",
    "day": r"\d{2}",
    "hr": r"\d{2}",
    "minute": r"\d{2}",
}
#: A ULID, whose first digit is 7 at most.
_SLUG = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Layout(Struct, frozen=True):
    """`prefix` has no slash at either end; `filepath` and `filename` have been checked by `template_problem`."""

    prefix: str
    filepath: str = FILEPATH_DEFAULT
    filename: str = FILENAME_DEFAULT
    compression: Compression = "gzip"


def file_key(layout: Layout, at_ms: int, ulid: str, *, dead: bool = False) -> str:
    """The key of the file of this ULID, whose records are of the time `at_ms`."""
    variables = {
        **_time_variables(at_ms),
        "slug": ulid,
        "extension": _EXTENSIONS[layout.compression],
    }
    return _fixed(layout, dead) + _filled(_template(layout), variables)


def key_patterns(layout: Layout) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What the keys that `file_key` gives look like, of data files and of dead-letter files. To be matched in full;
    the group `slug` is the file's ULID."""
    return _key_pattern(layout, dead=False), _key_pattern(layout, dead=True)


def key_roots(layout: Layout) -> tuple[str, str]:
    """What all keys of data files start with, and those of dead-letter files."""
    data, dead = (_fixed(layout, dead) + _template(layout).partition("${")[0] for dead in (False, True))
    return data, dead


def partition_ms(layout: Layout) -> int | None:
    """How long a time the records of one file may span, if its key is to be true of all: a minute, an hour or a day
    (UTC). None if the key tells no time."""
    used = _VARIABLE.findall(f"{layout.filepath}/{layout.filename}")
    return min((_TIMES[name] for name in used if name in _TIMES), default=None)


def template_problem(filepath: str, filename: str) -> tuple[str, str] | None:
    """What is wrong with the templates: ("filepath" or "filename", and in words what it must be)."""
    for field, text, known in (
        ("filepath", filepath, tuple(_TIMES)),
        ("filename", filename, (*_TIMES, *_NAMES)),
    ):
        unknown = [name for name in _VARIABLE.findall(text) if name not in known]
        if unknown:
            names = ", ".join(f"${{{name}}}" for name in known)
            return field, f"has the variable ${{{unknown[0][:64]}}}; there are {names}"
        if "$" in _VARIABLE.sub("", text):
            return field, "has a '$' that starts no variable; variables are written ${name}"
    if "/" in filename:
        return "filename", "must have no slash; folders belong into filepath"
    if "${slug}" not in filename:
        return "filename", "must have ${slug} in it, which makes each file's name unique"
    return None


def _time_variables(at_ms: int) -> dict[str, str]:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {
        "date": f"{at:%Y-%m-%d}",
        "year": f"{at.year:04}",
        "month": f"{at:%m}",
        "day": f"{at:%d}",
        "hr": f"{at:%H}",
        "minute": f"{at:%M}",
    }


def _fixed(layout: Layout, dead: bool) -> str:
    """What keys begin with before the templates, a slash at the end; the prefix is no template."""
    return "".join(f"{part}/" for part in (layout.prefix, DEAD_FOLDER if dead else "") if part)


def _template(layout: Layout) -> str:
    return "/".join(part for part in (layout.filepath, layout.filename) if part)


def _key_pattern(layout: Layout, *, dead: bool) -> re.Pattern[str]:
    patterns = {**_PATTERNS, "extension": re.escape(_EXTENSIONS[layout.compression])}
    # Texts and names of variables take turns.
    texts_and_names = _VARIABLE.split(_template(layout))
    pattern = re.escape(_fixed(layout, dead))
    for index, part in enumerate(texts_and_names):
        if index % 2 == 0:
            pattern += re.escape(part)
        elif part != "slug":
            pattern += patterns[part]
        else:
            pattern += "(?P=slug)" if "(?P<slug>" in pattern else f"(?P<slug>{_SLUG})"
    return re.compile(pattern, re.ASCII)


def _filled(template: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables[match[1]], template)
