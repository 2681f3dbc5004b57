"""Who an object is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ObjectId:
    """A namespace (the name of a class) and a name.

    `key`, 64 hexadecimal digits, is a hash of both. It alone is used for file names and placement, so that no
    name, whatever it holds, becomes a path.
    """

    namespace: str
    name: str
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # The length keeps ("a", "b/c") and ("a/b", "c") apart.
        text = f"{len(self.namespace)}:{self.namespace}/{self.name}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        object.__setattr__(self, "key", digest)

    def __str__(self) -> str:
        return f"{self.namespace}({self.name!r})"
