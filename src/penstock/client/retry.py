"""Whether to try again, and when. Pure.

Of our own, not stamina: there jitter is added to the exponential, where here all of the wait is drawn (clients that
were refused together must not come back together), and time, sleep and randomness are the interpreter's, where ours
come through ports.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from penstock.base.limits import CLIENT_RETRY_BASE_MS, CLIENT_RETRY_MAX_MS
from penstock.base.rng import Rng


def is_retryable(status: int) -> bool:
    """408: the server did not get all of it in time; 429 and 5xx: it may go well later."""
    return status in (408, 429) or 500 <= status < 600


def retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """What a `Retry-After` says (RFC 9110, 10.2.3: seconds or a date), in milliseconds from `now_ms` on (Unix
    epoch); None if there is none that can be understood."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1000
    try:
        at_ms = int(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return max(0, at_ms - now_ms)


def wait_ms(failures: int, after_ms: int | None, rng: Rng) -> int:
    """How long to wait after the `failures`-th failure (1, 2, …): full jitter over a bound that doubles, on top of
    what the server asked for, so that those it sent away together come back one by one."""
    bound_ms = min(CLIENT_RETRY_MAX_MS, CLIENT_RETRY_BASE_MS << min(failures - 1, 30))
    return (after_ms or 0) + rng.randrange(bound_ms + 1)
