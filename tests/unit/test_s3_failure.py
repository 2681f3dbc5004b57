"""What an S3 server's answers mean: what waiting cures, what somebody has to repair, and what never works."""

from __future__ import annotations

import pytest

from penstock.base.errors import (
    BucketNotFound,
    Forbidden,
    Invalid,
    NotFound,
    PenstockError,
    StorageFull,
    Unavailable,
)
from penstock.storage.s3_failure import S3Request, failure

PUT = S3Request("https://s3.example", "put", "logs", "a/b.json")
GET = S3Request("https://s3.example", "get", "logs", "a/b.json")
LIST = S3Request("https://s3.example", "list", "logs")


def answer(status: int, code: str = "") -> str:
    """As obstore words it."""
    body = f"<Error><Code>{code}</Code><Message>canary</Message></Error>" if code else ""
    return (
        "Generic S3 error: Error performing PUT https://s3.example/logs/a/b.json in 1.3ms - "
        f"Server returned non-2xx status code: {status} Whatever: {body}"
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_E1_what_passes_is_worth_trying_again(status: int) -> None:
    error = failure(PUT, answer(status))
    assert type(error) is Unavailable and error.retry_after_s == 1
    assert error.message == (
        f"Could not put a/b.json in the bucket logs at https://s3.example: the server answered {status}. "
        "It is worth trying again."
    )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "RequestTimeout", Unavailable),
        (404, "NoSuchUpload", Unavailable),
        (503, "SlowDown", Unavailable),
        (401, "", Forbidden),
        (403, "", Forbidden),
        (403, "AccessDenied", Forbidden),
        (403, "RequestTimeTooSkewed", Forbidden),
        (400, "ExpiredToken", Forbidden),
        (507, "", StorageFull),
        (507, "XMinioStorageFull", StorageFull),
        (403, "QuotaExceeded", StorageFull),
        (404, "NoSuchBucket", BucketNotFound),
        (404, "", BucketNotFound),
        (400, "InvalidArgument", Invalid),
        (405, "", Invalid),
        (413, "EntityTooLarge", Invalid),
        (301, "PermanentRedirect", Invalid),
        (400, "AuthorizationHeaderMalformed", Invalid),
    ],
)
def test_E1_each_answer_to_a_put_is_of_one_kind(status: int, code: str, kind: type[PenstockError]) -> None:
    error = failure(PUT, answer(status, code))
    assert type(error) is kind
    if kind is not BucketNotFound:
        assert f"{status} {code}".rstrip() in error.message


@pytest.mark.parametrize(
    ("request_", "code", "kind"),
    [
        (GET, "NoSuchKey", NotFound),
        (GET, "", NotFound),
        (GET, "NoSuchBucket", BucketNotFound),
        (LIST, "", BucketNotFound),
    ],
)
def test_a_404_is_about_the_bucket_or_about_the_key(
    request_: S3Request, code: str, kind: type[PenstockError]
) -> None:
    assert type(failure(request_, answer(404, code))) is kind


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'HTTP error: error sending request\n\nDebug source:\nOs { code: 111, message: "Connection refused" }',
            "Conn",
        ),
        ("HTTP error\nHttpError { kind: Timeout, source: reqwest::Error { kind: Request } }", "Timeout"),
        ("HTTP error\ninvalid peer certificate: InvalidCertificate(UnknownIssuer)", "UnknownIssuer"),
        ("something new", "the request failed"),
    ],
)
def test_E1_no_answer_is_worth_trying_again_and_says_why(text: str, reason: str) -> None:
    error = failure(PUT, text)
    assert type(error) is Unavailable and "no answer (" in error.message and reason in error.message


def test_G10_no_message_repeats_what_the_server_said_beside_its_code() -> None:
    for status in (400, 403, 404, 500, 507):
        assert "canary" not in failure(PUT, answer(status, "Whatever")).message
        assert "canary" not in failure(PUT, f"{answer(status)}<Code>can ary canary</Code>").message
