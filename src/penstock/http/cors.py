"""Cross-origin requests to a pipeline's endpoint (the Fetch standard, "CORS protocol"): what a page may read.

This keeps nobody from sending: a pipeline that must not take records from strangers needs authentication. So an
origin that is not listed gets its answer, but without the headers that let a page see it.
"""

from __future__ import annotations

from penstock.base.limits import CORS_MAX_AGE_S
from penstock.http.errors import RawHeaders
from penstock.pipelines.plan import Plan

#: What a page may send. A browser asks before it sends any of them but some content types.
_REQUEST_HEADERS = b"content-type, content-encoding, authorization, idempotency-key"
#: What a page may read beside the body.
_ANSWER_HEADERS = b"retry-after, x-request-id"


def allows(plan: Plan, origin: bytes) -> bool:
    """Whether the settings name the origin, which browsers send in lower case and without a default port."""
    return "*" in plan.cors_origins or origin.decode("latin-1") in plan.cors_origins


def answer_headers(origin: bytes) -> RawHeaders:
    """With any answer to an origin that is allowed, errors included."""
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _ANSWER_HEADERS),
        (b"vary", b"Origin"),
    )


def preflight_headers(origin: bytes) -> RawHeaders:
    """With the answer to a preflight of an origin that is allowed."""
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-allow-headers", _REQUEST_HEADERS),
        (b"access-control-max-age", b"%d" % CORS_MAX_AGE_S),
        (b"vary", b"Origin"),
    )
