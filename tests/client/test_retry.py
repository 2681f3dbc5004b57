"""When to try again: decisions, without a client."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from penstock.base.limits import CLIENT_RETRY_BASE_MS, CLIENT_RETRY_MAX_MS
from penstock.base.rng import seeded_rng
from penstock.client.answers import Answer, error_of
from penstock.client.retry import is_retryable, retry_after_ms, wait_ms
from penstock.http.errors import STATUS

NOW_MS = 1_735_689_600_000


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507, 599])
def test_what_may_go_well_later_is_tried_again(status: int) -> None:
    assert is_retryable(status)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 413, 415, 422])
def test_what_stays_wrong_is_not(status: int) -> None:
    assert not is_retryable(status)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_ms("3", NOW_MS) == 3_000
    assert retry_after_ms(formatdate(NOW_MS / 1000 + 7, usegmt=True), NOW_MS) == 7_000
    assert retry_after_ms(formatdate(NOW_MS / 1000 - 7, usegmt=True), NOW_MS) == 0


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "1.5", "Mon, 99 Foo 2026", "²"])
def test_a_retry_after_that_says_nothing_counts_as_none(header: str | None) -> None:
    assert retry_after_ms(header, NOW_MS) is None


def test_the_wait_is_drawn_from_all_of_a_bound_that_doubles_up_to_a_limit() -> None:
    rng = seeded_rng(1)
    for failures in range(1, 60):
        bound = min(CLIENT_RETRY_MAX_MS, CLIENT_RETRY_BASE_MS * 2 ** (failures - 1))
        drawn = [wait_ms(failures, None, rng) for _ in range(300)]
        assert min(drawn) < bound / 10 and bound * 0.9 < max(drawn) <= bound


def test_what_the_server_asked_for_is_the_least_that_is_waited() -> None:
    rng = seeded_rng(1)
    drawn = {wait_ms(1, 5_000, rng) for _ in range(200)}
    assert min(drawn) >= 5_000 and max(drawn) <= 5_000 + CLIENT_RETRY_BASE_MS and len(drawn) > 20


@pytest.mark.parametrize("kind", sorted(STATUS.keys() - {"object_failed", "corrupt", "fenced", "bucket_not_found"}))
def test_each_status_of_the_server_becomes_the_kind_that_it_was(kind: str) -> None:
    # (A client is told of the others as `internal`, `unavailable` and `not_found`.)
    assert error_of(Answer(STATUS[kind], {}, b""), "http://there", NOW_MS).kind == kind


@pytest.mark.parametrize(
    ("status", "kind"), [(302, "invalid"), (408, "unavailable"), (418, "invalid"), (502, "unavailable")]
)
def test_other_statuses_become_the_kind_that_says_what_to_do(status: int, kind: str) -> None:
    assert error_of(Answer(status, {}, b"<html>"), "http://there", NOW_MS).kind == kind


def test_message_code_and_wait_of_either_api_are_kept() -> None:
    ingest = Answer(429, {"retry-after": "2"}, b'{"success":false,"error":{"code":7,"message":"Full."}}')
    control = Answer(400, {}, b'{"success":false,"errors":[{"code":1012,"message":"Wrong."}],"result":null}')
    error = error_of(ingest, "http://there", NOW_MS)
    assert (error.message, error.code, error.retry_after_s) == ("Full.", 7, 2)
    error = error_of(control, "http://there", NOW_MS)
    assert (error.message, error.code, error.retry_after_s) == ("Wrong.", 1012, None)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"error":"text"}', b'{"errors":[]}'])
def test_an_error_without_a_reason_names_who_gave_it(body: bytes) -> None:
    assert (
        "http://there answered with status 503" in error_of(Answer(503, {}, body), "http://there", NOW_MS).message
    )
