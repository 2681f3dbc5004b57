"""Where buckets of the S3 protocol are, and the key that opens them. Pure; the key is only ever kept sealed."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

import msgspec

from penstock.base.errors import Invalid
from penstock.base.limits import (
    ACCESS_KEY_ID_LENGTH_MAX,
    S3_ENDPOINT_LENGTH_MAX,
    S3_REGION_LENGTH_MAX,
    SECRET_ACCESS_KEY_LENGTH_MAX,
)
from penstock.storage.secrets import Secrets

#: Cloudflare R2 knows this region alone, and servers of one region take whatever they are told.
REGION_DEFAULT = "auto"
#: How an error names the fields, unless told otherwise: as the API does.
FIELD_DEFAULT = "destination.credentials"

_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\Z")
#: Both travel in a header. (No blanks: they come from copying, and would only be refused by the server, later.)
_KEY = re.compile(r"[\x21-\x7e]+\Z")


class S3Connection(msgspec.Struct, frozen=True):
    """How to reach the buckets of one account at one server of the S3 protocol.

    Made by `connect`, which checks it. `credentials` is sealed text (`Secrets.seal`), so that a connection can be
    stored and sent to other executors; it opens for this `owner` and `endpoint` alone.
    """

    #: `http://` or `https://`, host and port; a path only for servers that live below one. No trailing slash.
    endpoint: str
    #: What the access key id and the secret were sealed for: the id of the pipeline that delivers with them.
    owner: str
    #: An `S3Credentials`, sealed.
    credentials: str
    region: str = REGION_DEFAULT
    #: Buckets are named in the path, as every server understands; else in the host name.
    path_style: bool = True


class S3Credentials(msgspec.Struct, frozen=True):
    """An access key, in the clear: only between its arrival and its sealing, and in the adapter."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return "S3Credentials(...)"  # where a value is logged by mistake


def connect(
    secrets: Secrets,
    owner: str,
    endpoint: str,
    credentials: S3Credentials,
    *,
    region: str = REGION_DEFAULT,
    path_style: bool = True,
    field: str = FIELD_DEFAULT,
) -> S3Connection:
    """A connection with its credentials sealed for `owner`. Raises `Invalid`, naming the field below `field`."""
    endpoint = checked_endpoint(endpoint, f"{field}.endpoint")
    return S3Connection(
        endpoint,
        owner,
        secrets.seal(
            msgspec.json.encode(checked_credentials(credentials, field)), _sealing_context(owner, endpoint)
        ),
        checked_region(region, f"{field}.region"),
        path_style,
    )


def open_credentials(secrets: Secrets, connection: S3Connection) -> S3Credentials:
    """The access key of a connection. Raises `Unavailable` when it cannot be opened, saying what to restore."""
    context = _sealing_context(connection.owner, connection.endpoint)
    return msgspec.json.decode(secrets.open(connection.credentials, context), type=S3Credentials)


def _sealing_context(owner: str, endpoint: str) -> str:
    # The endpoint too: a key must not be sent anywhere but where its owner said.
    return f"s3 {owner} {endpoint}"


def checked_endpoint(endpoint: str, field: str) -> str:
    """`endpoint` without a trailing slash. Raises `Invalid`. Gives nothing of it in the message that could be a
    password."""
    try:
        url = urlsplit(endpoint)
        problem = _endpoint_problem(endpoint, url)
    except ValueError as error:
        problem = f"is no URL ({error})"
    if problem is not None:
        raise Invalid(f"{field} {problem}. Give it as https://HOST or http://HOST:PORT.")
    return endpoint.rstrip("/")


def _endpoint_problem(endpoint: str, url: SplitResult) -> str | None:
    if len(endpoint) > S3_ENDPOINT_LENGTH_MAX:
        return f"has {len(endpoint)} characters; {S3_ENDPOINT_LENGTH_MAX} are allowed"
    if url.scheme not in ("http", "https") or not url.hostname:
        return "must be the http:// or https:// URL of a server"
    if not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
        return "must be printable ASCII without blanks"
    if url.username is not None or url.password is not None:
        return "must not hold a user or a password; credentials have fields of their own"
    if url.query or url.fragment or endpoint.endswith(("?", "#")):
        return "must end with the host, the port or a path"
    if url.port == 0:
        return "names port 0"
    return None


def checked_region(region: str, field: str) -> str:
    """Raises `Invalid`."""
    if len(region) > S3_REGION_LENGTH_MAX or not _REGION.match(region):
        raise Invalid(
            f"{field} must be 1 to {S3_REGION_LENGTH_MAX} letters, digits and dashes, such as {REGION_DEFAULT} "
            "or eu-central-1."
        )
    return region


def checked_credentials(credentials: S3Credentials, field: str) -> S3Credentials:
    """Raises `Invalid`, which repeats nothing of them."""
    for name, value, length_max in (
        ("access_key_id", credentials.access_key_id, ACCESS_KEY_ID_LENGTH_MAX),
        ("secret_access_key", credentials.secret_access_key, SECRET_ACCESS_KEY_LENGTH_MAX),
    ):
        if len(value) > length_max or not _KEY.match(value):
            raise Invalid(f"{field}.{name} must be 1 to {length_max} printable ASCII characters without blanks.")
    return credentials
