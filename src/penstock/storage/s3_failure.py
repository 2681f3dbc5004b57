"""What an answer of an S3 server, or the lack of one, means to us. Pure.

The client gives its errors as text: the status and the code are read from it. What it quotes beside them (the
answer's body, which may repeat what was signed) goes no further than this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.base.errors import (
    BucketNotFound,
    Forbidden,
    Invalid,
    NotFound,
    PenstockError,
    StorageFull,
    Unavailable,
)
from penstock.base.limits import DISK_FULL_RETRY_S

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
#: Why no answer came, innermost first: as the operating system says it, or TLS, or the HTTP client.
_REASONS = (
    re.compile(r'\bmessage: "([A-Za-z0-9 ,.:()/-]{1,80})"'),
    re.compile(r"\b(InvalidCertificate\(\w{1,40})"),
    re.compile(r"\b(dns error)\b"),
    re.compile(r"\b(operation timed out|connection closed|connection reset|incomplete message)", re.IGNORECASE),
    re.compile(r"\bkind: (Timeout|Connect|Request|Interrupted|Decode)\b"),
)

#: Codes that say more than their status, which differs between servers.
_TRANSIENT_CODES = frozenset(
    {
        "RequestTimeout",
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "NoSuchUpload",
        "Throttling",
    }
)
_CREDENTIALS_CODES = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AccountProblem",
    }
)
_FULL_CODES = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
)
_REGION_CODES = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


@dataclass(frozen=True, slots=True)
class S3Request:
    """What was asked of whom: what an error names."""

    endpoint: str
    verb: str
    bucket: str
    key: str | None = None

    def __str__(self) -> str:
        what = f"the bucket {self.bucket}" if self.key is None else f"{self.key} in the bucket {self.bucket}"
        return f"{self.verb} {what} at {self.endpoint}"


def failure(request: S3Request, text: str) -> PenstockError:
    """The error to raise for one that the client raised with `text`."""
    found = _STATUS.search(text)
    if found is None:
        reason = next((match[1] for pattern in _REASONS if (match := pattern.search(text))), "the request failed")
        return _unavailable(request, f"no answer ({reason})")
    code = _CODE.search(text)
    return _answer(request, int(found[1]), code[1] if code else "")


def _answer(request: S3Request, status: int, code: str) -> PenstockError:
    said = f"{status} {code}".rstrip()
    if code in _FULL_CODES or status == 507:
        return StorageFull(
            f"Could not {request}: there is no room ({said}). It works again when there is.",
            retry_after_s=DISK_FULL_RETRY_S,
        )
    if code in _TRANSIENT_CODES or status in (408, 409, 425, 429) or status >= 500:
        return _unavailable(request, f"the server answered {said}")
    if code in _CREDENTIALS_CODES or status in (401, 403):
        return Forbidden(
            f"Could not {request}: the server answered {said}. Check access_key_id and secret_access_key, and that "
            "they may read, write, list and delete there."
        )
    if code == "NoSuchBucket" or (status == 404 and code != "NoSuchKey" and request.verb in ("put", "list")):
        return BucketNotFound(f"Could not {request}: there is no such bucket. Make it, or name another.")
    if status == 404:
        return NotFound(f"Could not {request}: there is no such object.")
    if code in _REGION_CODES or 300 <= status < 400:
        return Invalid(f"Could not {request}: the server answered {said}. Check endpoint, region and path_style.")
    return Invalid(f"Could not {request}: the server answered {said}. Check the bucket, the key and the endpoint.")


def _unavailable(request: S3Request, why: str) -> Unavailable:
    return Unavailable(f"Could not {request}: {why}. It is worth trying again.", retry_after_s=1)
