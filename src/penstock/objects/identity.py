"""Who an object is."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from penstock.base.errors import Invalid
from penstock.base.limits import OBJECT_NAME_BYTES_MAX
from penstock.base.rng import Rng

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ObjectId:
    """One object of a namespace (the name of a class).

    `key`, 64 hexadecimal digits, is what tells it from the others of its namespace, and what `str` gives. For an
    object with a name it is a hash of namespace and name; others have a `key` of their own and `name` None, as
    has an id made of a string. The key alone is used for file names and placement, so that no name, whatever it
    holds, becomes a path. Ids of the same namespace and key are equal, whether they know the name or not.
    """

    namespace: str
    name: str | None = field(compare=False)
    key: str = ""
    #: Tells it from all objects of all namespaces: `namespace/key`.
    address: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.name is not None:
            # The length keeps ("a", "b/c") and ("a/b", "c") apart.
            text = f"{len(self.namespace)}:{self.namespace}/{self.name}"
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            assert self.key in ("", digest), self.key
            object.__setattr__(self, "key", digest)
        assert self.key, "an id has a name, or a key"
        object.__setattr__(self, "address", f"{self.namespace}/{self.key}")

    @property
    def label(self) -> str:
        """For people: in messages and logs."""
        return f"{self.namespace}({self.key if self.name is None else repr(self.name)})"

    def __str__(self) -> str:
        return self.key

    def __hash__(self) -> int:
        return hash(self.key)


def named_id(namespace: str, name: str) -> ObjectId:
    """The id of a name. Raises `Invalid` for what cannot be one."""
    if not isinstance(name, str):
        raise Invalid(f"An object's name is a str, not a {type(name).__name__}.")
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise Invalid("An object's name must be valid Unicode; this one holds half of a surrogate pair.") from None
    if size > OBJECT_NAME_BYTES_MAX:
        raise Invalid(f"An object's name has {size} bytes in UTF-8; the limit is {OBJECT_NAME_BYTES_MAX}.")
    return ObjectId(namespace, name)


def unique_id(namespace: str, rng: Rng) -> ObjectId:
    """An id that no object has had. 256 random bits: two are never the same, and none can be guessed."""
    return ObjectId(namespace, None, f"{rng.getrandbits(256):064x}")


def parsed_id(namespace: str, text: str) -> ObjectId:
    """The id that `str` gave. Raises `Invalid` for what is none."""
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        raise Invalid("An object's id is 64 hexadecimal digits (0-9, a-f), as str(id) gives them.")
    return ObjectId(namespace, None, text)
