"""What a consumer says of the messages that it was given. Pure."""

from __future__ import annotations

from msgspec import Struct


class Verdict(Struct, array_like=True, frozen=True):
    """One message's: acknowledged or, with `retry`, to be delivered again after `delay_ms` (None: the consumer's
    retry delay). `detail` is for its dead letter."""

    sequence: int
    retry: bool
    delay_ms: int | None = None
    detail: str = ""


class Settlement(Struct, array_like=True, frozen=True):
    """A lease's. What has no verdict is acknowledged or, with `rest_retry`, to be delivered again after
    `rest_delay_ms`. `failed`: the handler raised, took too long or answered with an error, which `detail` says;
    else it asked for what is retried."""

    lease: int
    rest_retry: bool
    rest_delay_ms: int | None = None
    verdicts: list[Verdict] = []
    failed: bool = False
    detail: str = ""


class MessageRef(Struct, array_like=True, frozen=True):
    """One message of an earlier lease: which delivery of it."""

    sequence: int
    attempts: int
