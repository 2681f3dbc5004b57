"""Identifiers. Pure: time and randomness are arguments."""

from __future__ import annotations

from penstock.base.rng import Rng

#: Crockford's base 32, the alphabet of the ULID specification (github.com/ulid/spec).
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUE = {letter: value for value, letter in enumerate(_CROCKFORD)}

ULID_LENGTH = 26
_ULID_RANDOM_BITS = 80
_ULID_MAX = (1 << 128) - 1


def _encode(number: int) -> str:
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def _decode(ulid: str) -> int:
    number = 0
    for letter in ulid:
        number = number << 5 | _VALUE[letter]
    return number


def next_ulid(previous: str | None, now_ms: int, rng: Rng) -> str:
    """A ULID greater than `previous`: 48 bits of `now_ms`, then 80 random bits.

    When the clock stands still or has gone back, the previous ULID plus one is taken (the ULID
    specification's monotonic rule), so that names sort in the order in which they were given, whatever the
    clock does.
    """
    fresh = (now_ms & (1 << 48) - 1) << _ULID_RANDOM_BITS | rng.getrandbits(_ULID_RANDOM_BITS)
    if previous is None:
        return _encode(fresh)
    last = _decode(previous)
    if fresh >> _ULID_RANDOM_BITS > last >> _ULID_RANDOM_BITS:
        return _encode(fresh)
    assert last < _ULID_MAX, "the ULID space of 2^128 is used up"
    return _encode(last + 1)


def ulid_ms(ulid: str) -> int:
    """When a ULID was made, in milliseconds since the Unix epoch."""
    return _decode(ulid) >> _ULID_RANDOM_BITS


def random_id(rng: Rng) -> str:
    """32 hexadecimal digits (128 random bits): the shape of ids in Cloudflare's API."""
    return f"{rng.getrandbits(128):032x}"


def random_secret(rng: Rng) -> str:
    """A secret of 256 random bits as 64 hexadecimal digits. Give it a `system_rng()`."""
    return f"{rng.getrandbits(256):064x}"
