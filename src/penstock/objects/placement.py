"""Which executor owns an object. Pure: every executor computes the same answer from the key alone.

Rendezvous hashing (Thaler and Ravishankar, 1996): the owner is the slot whose hash with the key is greatest.
When the number of executors changes from n to n + 1, one object in n + 1 moves and the others stay.
"""

from __future__ import annotations

import hashlib
from itertools import count

from penstock.objects.identity import ObjectId


def owner(key: str, executors: int) -> int:
    """The slot, 0 to `executors` - 1, that owns the object of this key."""
    return max(range(executors), key=lambda slot: _weight(key, slot))


def _weight(key: str, slot: int) -> bytes:
    return hashlib.blake2b(f"{slot}/{key}".encode(), digest_size=8).digest()


def name_owned_by(namespace: str, stem: str, slot: int, executors: int) -> str:
    """A name that starts with `stem` and whose object is owned by `slot`.

    This is how a shard is created on the executor that wants it without any table of exceptions: placement stays
    a function of the name, and the name is chosen to fit. Takes `executors` tries on average.
    """
    assert 0 <= slot < executors
    for n in count():
        name = f"{stem}.{n}"
        if owner(ObjectId(namespace, name).key, executors) == slot:
            return name
    raise AssertionError("unreachable")
