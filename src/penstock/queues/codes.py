"""Cloudflare's numbers for what can be wrong with queues and their consumers, as its clients know them."""

from __future__ import annotations

#: A queue, by an id that is none, or that is of none.
CODE_MALFORMED_ID = 10107
CODE_UNKNOWN_QUEUE = 11000
CODE_INVALID_NAME = 11003
CODE_NAME_TAKEN = 11009
CODE_INVALID_QUEUE = 100128
#: A consumer.
CODE_CONSUMER_EXISTS = 11004
CODE_UNKNOWN_CONSUMER = 11006
CODE_INVALID_CONSUMER = 100127
#: A body that is no JSON, or not what it has to be.
CODE_INVALID_BODY = 10026
