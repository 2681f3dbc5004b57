"""Queues: messages in, kept, and delivered to consumers at least once."""
