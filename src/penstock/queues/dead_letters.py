"""What a dead letter is: the message as it was, with where it comes from and why. Pure."""

from __future__ import annotations

from penstock.queues.deliveries import DeadMessage
from penstock.queues.message import Extra, Message, NewMessage, Origin
from penstock.queues.shard_map import ShardMap


def as_dead_letter(message: Message, dead: DeadMessage, shard_map: ShardMap, consumer: str) -> NewMessage:
    """The message for the dead-letter queue. It keeps its id and the time when it was sent, and is recognised when
    it comes again."""
    origin = Origin(
        queue_id=shard_map.queue_id,
        queue_name=shard_map.settings.name,
        consumer_id=consumer,
        reason=dead.reason,
        detail=dead.detail,
        attempts=dead.attempts,
        dead_ms=dead.dead_ms,
    )
    return NewMessage(
        content_type=message.content_type,
        body=message.body,
        delay_ms=0,
        dedup_id=f"dead/{shard_map.queue_id}/{consumer}/{message.id}/{dead.dead_ms}",
        extra=Extra(source="dead_letter", id=message.id, sent_ms=message.sent_ms, origin=origin),
    )
