"""A message on its way: into a storage shard, and out to a consumer. Pure.

Between brokers, shards and handlers batches of messages travel as msgpack, encoded once and decoded where they are
needed: the shards in between hand the bytes on.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, get_args

import msgspec
from msgspec import Struct

ContentTypeName = Literal["text", "json", "bytes"]
CONTENT_TYPES: tuple[ContentTypeName, ...] = get_args(ContentTypeName)


class ContentType(IntEnum):
    """What a body is: UTF-8 text, the text of a JSON value, or any bytes."""

    TEXT = 0
    JSON = 1
    BYTES = 2


class Origin(Struct, array_like=True, frozen=True):
    """Where a dead letter comes from. Times are milliseconds since the Unix epoch."""

    queue_id: str
    queue_name: str
    consumer_id: str
    #: `handler_failed`, `retry_asked` or `lease_ended`
    reason: str
    #: What the handler said, cut short.
    detail: str
    #: How often the message was delivered.
    attempts: int
    dead_ms: int


class Extra(Struct, array_like=True, frozen=True, omit_defaults=True):
    """What only few messages have. `id` and `sent_ms`: those that the message had in the queue it comes from."""

    #: Where it was sent from: `api`, `redrive`, `dead_letter`, or an event source.
    source: str = "api"
    id: str = ""
    sent_ms: int = 0
    origin: Origin | None = None


class NewMessage(Struct, array_like=True, frozen=True, omit_defaults=True):
    """A message to be stored. `delay_ms`: None is the queue's own delivery delay, 0 is none. Of messages with the
    same `dedup_id` that come within the queue's window the first is stored."""

    content_type: ContentType
    body: bytes
    delay_ms: int | None = None
    dedup_id: str = ""
    extra: Extra | None = None


class Message(Struct, array_like=True, frozen=True, omit_defaults=True):
    """A message that is delivered, or looked at. `attempts` counts this delivery; 0 if it was never delivered."""

    sequence: int
    id: str
    #: Wall time when it was sent, milliseconds since the Unix epoch.
    sent_ms: int
    attempts: int
    content_type: ContentType
    body: bytes
    extra: Extra | None = None


encode_new = msgspec.msgpack.Encoder().encode
decode_new = msgspec.msgpack.Decoder(list[NewMessage]).decode
encode_messages = msgspec.msgpack.Encoder().encode
decode_messages = msgspec.msgpack.Decoder(list[Message]).decode
