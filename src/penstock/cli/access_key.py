"""The key of an S3 server: from flags and, so that its secret need not stand there, from the environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.cli.errors import WrongFlag

#: In the order in which they are asked.
_PREFIXES = ("PENSTOCK_S3_", "AWS_")


def complete_key(id: str | None, secret: str | None, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The access key's id and secret; `id` and `secret` are the flags, None where not given. What a flag leaves out
    comes from the environment, but never half of another key. None if there is neither.

    Raises WrongFlag when one of the two is missing, or the environment has a key that ends.
    """
    if id is not None and secret is not None:
        return id, secret
    for prefix in _PREFIXES:
        known_id, known_secret = (environ.get(prefix + name) for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        if (id and known_id and id != known_id) or (secret and known_secret and secret != known_secret):
            continue
        found_id, found_secret = id or known_id, secret or known_secret
        if found_id and found_secret:
            if prefix == "AWS_" and environ.get("AWS_SESSION_TOKEN"):
                raise WrongFlag(
                    "the key in AWS_ACCESS_KEY_ID ends with its session (AWS_SESSION_TOKEN is set). Give one that "
                    "lasts, with --access-key-id."
                )
            return found_id, found_secret
    if id is not None:
        raise WrongFlag(
            "--access-key-id needs its secret: set PENSTOCK_S3_SECRET_ACCESS_KEY, or pass --secret-access-key."
        )
    if secret is not None:
        raise WrongFlag("--secret-access-key needs --access-key-id.")
    return None
