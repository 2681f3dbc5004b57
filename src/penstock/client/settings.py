"""What a user of the client may set."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from penstock.base.errors import Invalid
from penstock.base.limits import BODY_BYTES_LIMIT, Limits


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client batches, waits and gives up. Raises `Invalid` for what cannot hold."""

    #: Of bodies. "gzip" costs about 5 ms of a processor for each MB and saves most of the bytes on the network.
    compression: Literal["none", "gzip"] = "none"
    #: The server's limit on a body before compression (`penstock serve --body-bytes-max`). What is larger is split.
    body_bytes_max: int = Limits().body_bytes_max
    #: Records that were put leave when there are this many, or this many bytes of them, or when the first of them
    #: is this old. More: fewer requests and a higher throughput; fewer: less to lose when the process is killed.
    batch_records_max: int = 1_000
    batch_bytes_max: int = 1_000_000
    batch_ms_max: int = 250
    #: Bytes of JSON that were put and are not stored yet, per pipeline. `put` waits for room.
    buffer_bytes_max: int = 16_000_000
    #: A `send`, or a batch of records that were put, is tried again until this time is over.
    deadline_ms: int = 60_000
    #: One try. A little longer than the server takes to give up on anything itself, so that its words arrive first.
    request_ms_max: int = 35_000
    #: How long `close`, the end of a `with` block and the exit of the interpreter wait for records that were put.
    close_ms_max: int = 10_000

    def __post_init__(self) -> None:
        if self.compression not in ("none", "gzip"):
            raise Invalid(f"compression is {self.compression!r}; it must be 'none' or 'gzip'.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "compression" and not (type(value) is int and value >= 1):
                raise Invalid(f"{field.name} is {value!r}; it must be a whole number of 1 or more.")
        if self.body_bytes_max > BODY_BYTES_LIMIT:
            raise Invalid(f"body_bytes_max is {self.body_bytes_max}; no server takes more than {BODY_BYTES_LIMIT}.")
