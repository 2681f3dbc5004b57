"""Secrets at rest: what must be stored and used again, but never read from a database, a backup or a log.

Sealed text is `v1.<key id>.<base64url of a 12-byte nonce, then the AES-256-GCM ciphertext and its tag>`. The key id
says which key opens it, so that keys can be rotated: the first key of the file seals, any of them opens. The
context is authenticated with it (AES-GCM's associated data): what was sealed for one use opens for no other.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from penstock.base.errors import Corrupt, Invalid, Unavailable
from penstock.base.rng import Rng

_VERSION = "v1"
_KEY_BYTES = 32
#: NIST SP 800-38D recommends 96 bits. Drawn at random they may be used for 2^32 sealings under one key.
_NONCE_BYTES = 12
_KEY_LINE = re.compile(r"([0-9a-f]{8}) ([A-Za-z0-9+/]{43}=)\Z")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """`id`: 8 hexadecimal digits. `key`: 32 bytes."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"SecretKey({self.id})"


class Secrets:
    """Seals and opens with a set of keys, the first of which seals. Without any, it refuses both."""

    def __init__(self, keys: Sequence[SecretKey], rng: Rng | None = None) -> None:
        self._keys = {key.id: AESGCM(key.key) for key in keys}
        self._sealing = keys[0].id if keys else None
        self._rng = rng

    def seal(self, plain: bytes, context: str) -> str:
        """Sealed text, ASCII, of which two are never the same. Raises `Unavailable` without a key."""
        if self._sealing is None or self._rng is None:
            raise Unavailable("This server has no secret key, so it cannot keep secrets. Start it with one.")
        nonce = self._rng.randbytes(_NONCE_BYTES)
        sealed = nonce + self._keys[self._sealing].encrypt(nonce, plain, context.encode())
        return f"{_VERSION}.{self._sealing}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, context: str) -> bytes:
        """What was sealed. Raises `Unavailable` if its key is not here (it works again when the key is), `Corrupt`
        if the text is damaged or was sealed for something else. Neither repeats the text."""
        version, _, rest = sealed.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != _VERSION:
            raise Corrupt("A stored secret is not in a format that this penstock reads.")
        key = self._keys.get(key_id)
        if key is None:
            raise Unavailable(
                f"A stored secret was sealed with the key {key_id[:8]!r}, which this server does not have. Restore "
                "the secret key file that belongs to this data directory (secret.key, or what --secret-key-file "
                "named) and start again, or give the credentials anew."
            )
        try:
            content = base64.b64decode(encoded, altchars=b"-_", validate=True)
            return key.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], context.encode())
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise Corrupt("A stored secret is damaged, or was sealed for something else.") from error


def new_secret_key(rng: Rng) -> SecretKey:
    """Give it a `system_rng()`."""
    return SecretKey(f"{rng.getrandbits(32):08x}", rng.randbytes(_KEY_BYTES))


def encode_keys(keys: Sequence[SecretKey]) -> str:
    """The content of a key file."""
    return "".join(
        [
            "# Opens the secrets that this server stores. Keep it secret, and keep a copy of it.\n",
            "# One key a line. The first seals, all of them open; put a new one on top to rotate.\n",
            *(f"{key.id} {base64.b64encode(key.key).decode()}\n" for key in keys),
        ]
    )


def decode_keys(text: str, name: str) -> list[SecretKey]:
    """The keys of a key file; `name` is what an error calls it. Raises `Invalid`, which repeats nothing of it."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _KEY_LINE.match(line.strip())
        if match is None:
            raise Invalid(
                f"{name} is damaged: line {number} is not a key (8 hexadecimal digits, a blank, and 32 bytes in "
                "base64). Restore it from a backup."
            )
        keys.append(SecretKey(match[1], base64.b64decode(match[2])))
    if not keys:
        raise Invalid(f"{name} is damaged: it holds no key. Restore it from a backup.")
    if len({key.id for key in keys}) != len(keys):
        raise Invalid(f"{name} is damaged: two of its keys have the same id. Remove one of them.")
    return keys
