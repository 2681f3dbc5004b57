"""What a queue and its consumers are set to. `settings_body.py` reads them from a request; ranges are in
`base/limits.py`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

#: `worker`: handlers of an application, by its script name. `http_push`: a URL. `http_pull`: whoever asks.
ConsumerType = Literal["worker", "http_pull", "http_push"]


class QueueSettings(Struct, frozen=True):
    """`delivery_delay_s` 0 to 86,400. `message_retention_period_s` 60 to 1,209,600. `dedup_window_s`: how long a
    `dedup_id` is remembered, 0 to 86,400. `multiple_consumers`: whether more than one consumer may be added."""

    name: str
    delivery_delay_s: int = 0
    delivery_paused: bool = False
    message_retention_period_s: int = 345_600
    dedup_window_s: int = 300
    multiple_consumers: bool = False
    jurisdiction: str | None = None


class ConsumerSettings(Struct, frozen=True):
    """`batch_size` 1 to 100 messages. `max_retries` 0 to 100: a message is delivered at most once more than that.
    `max_wait_time_ms` 0 to 60,000: how long a batch waits to become full. `max_concurrency` 1 to 1,000 batches at
    once, None as many as the load wants, up to the operator's limit. `retry_delay_s` 0 to 86,400.
    `visibility_timeout_ms` up to 43,200,000: how long what was pulled is kept from others."""

    type: ConsumerType
    script: str = ""
    environment: str = ""
    dead_letter_queue: str = ""
    batch_size: int = 10
    max_retries: int = 3
    max_wait_time_ms: int = 5_000
    max_concurrency: int | None = None
    retry_delay_s: int = 0
    visibility_timeout_ms: int = 30_000
    #: `http_push` alone. The URL, its sealed signing secret (`storage/secrets.py`), and how long one answer may
    #: take.
    url: str = ""
    sealed_secret: str = ""
    timeout_ms: int = 30_000


class Consumer(Struct, frozen=True):
    """A consumer of a queue, for everybody who has to do with it. `concurrency`: batches at once that the load
    wants now. `shards`: names of its consumer shards, none for `http_pull`. Each shard takes its share of
    `concurrency`."""

    id: str
    settings: ConsumerSettings
    created_ms: int
    concurrency: int = 1
    shards: list[str] = []


class QueueDescription(Struct, frozen=True):
    """A queue as its coordinator knows it. Times are milliseconds since the Unix epoch."""

    id: str
    account: str
    settings: QueueSettings
    consumers: list[Consumer]
    created_ms: int
    modified_ms: int
    version: int
