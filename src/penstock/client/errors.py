"""What sending raises."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.base.errors import PenstockError


class SendError(PenstockError):
    """Records were not sent, and will not be unless they are given to the client again.

    `records` holds the JSON of each of them, in order: what `send` takes. `committed` counts those of the same call
    of `send` that are stored, all of them before the first of `records`; it is 0 for records that were put. `kind`,
    `code`, `retryable`, `overloaded` and `retry_after_s` are those of `reason`, the first thing that went wrong.
    `pipeline` is the pipeline's name or endpoint. `others` are the errors of the client's other pipelines, where
    `flush` or `close` of a whole client found several.

    Where the kind is `unavailable` or `internal`, the answer may have got lost after the records were stored.
    """

    def __init__(
        self, reason: PenstockError, records: Sequence[bytes], *, pipeline: str, committed: int = 0
    ) -> None:
        count = f"{len(records)} record{'' if len(records) == 1 else 's'}"
        super().__init__(
            f"{count} not sent to {pipeline}: {reason.message}",
            code=reason.code,
            retry_after_s=reason.retry_after_s,
        )
        self.kind = reason.kind
        self.retryable = reason.retryable
        self.overloaded = reason.overloaded
        self.reason = reason
        self.records = list(records)
        self.committed = committed
        self.pipeline = pipeline
        self.others: list[SendError] = []
