"""What a bucket and the keys in it may be called. Pure."""

from __future__ import annotations

import re

from penstock.base.errors import Invalid
from penstock.base.limits import KEY_BYTES_MAX, KEY_PART_BYTES_MAX

#: A bucket's name: S3's rule, without the dots, which its own documentation advises against.
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


def check_bucket(name: str) -> None:
    """Raises `Invalid` for what is no bucket's name."""
    if not isinstance(name, str) or not BUCKET_NAME.fullmatch(name):
        raise Invalid(
            f"{str(name)[:100]!r} cannot be the name of a bucket: it has 3 to 63 of a-z, 0-9 and '-', and starts "
            "and ends with a letter or a digit."
        )


def check_key(key: str) -> None:
    """Raises `Invalid` for a key that cannot be a path within a folder."""
    if not isinstance(key, str):
        raise Invalid(f"A key is a str, not {type(key).__name__}.")
    try:
        parts = key.encode().split(b"/")
    except UnicodeEncodeError as error:
        raise Invalid(f"The key {key[:100]!r} is not valid Unicode: {error.reason}.") from error
    if any(part in (b"", b".", b"..") for part in parts):
        raise Invalid(f"The key {key[:100]!r} has an empty part, '.' or '..'.")
    if "\0" in key:
        raise Invalid(f"The key {key[:100]!r} has a zero byte.")
    if len(key.encode()) > KEY_BYTES_MAX or max(map(len, parts)) > KEY_PART_BYTES_MAX:
        raise Invalid(
            f"The key {key[:100]!r} is too long: the limit is {KEY_BYTES_MAX} bytes, and {KEY_PART_BYTES_MAX} "
            "between two slashes."
        )
