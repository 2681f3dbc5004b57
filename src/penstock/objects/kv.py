"""`ctx.storage.kv`: values by key, in a table of their own."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from penstock.base.errors import Corrupt, Invalid
from penstock.base.limits import KV_BATCH_KEYS_MAX, KV_ENTRY_BYTES_MAX, KV_KEY_BYTES_MAX, KV_PAGE_ENTRIES

if TYPE_CHECKING:
    from penstock.objects.system_storage import SystemStorage

T = TypeVar("T")

_TABLE = "CREATE TABLE _penstock_kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID"
_EXISTS = "SELECT 1 FROM sqlite_schema WHERE name = '_penstock_kv'"
_GET = "SELECT value FROM _penstock_kv WHERE key = ?1"
_PUT = "INSERT INTO _penstock_kv VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM _penstock_kv WHERE key = ?1"

#: Greater than every key: SQLite sorts blobs after texts.
_NO_END = b""
_NOTHING: Any = object()


class Kv:
    """Values by key. A key is a non-empty string of at most 2 KiB in UTF-8.

    A value is whatever msgspec can encode: None, bool, int, float, str, bytes, list, dict, datetime and so on, and
    classes of msgspec, dataclasses and attrs. It is stored as MessagePack (msgpack.org), which does not change and
    which other languages read too. What comes back is made of the plain types: a tuple comes back as a list and an
    object as a dict, unless `get` is told its `type`. Key and value together are at most 2 MiB.

    Everything here is synchronous and commits with the rest of the step. All that is wrong with an argument is
    `Invalid`, before anything is written; a full disk is `StorageFull`, as with `sql.exec`.
    """

    def __init__(self, storage: SystemStorage) -> None:
        self._storage = storage
        self._has_table = False

    def forget(self) -> None:
        """The table may be gone: a transaction was undone, or everything was deleted."""
        self._has_table = False

    def _table_exists(self) -> bool:
        if not self._has_table:
            self._has_table = self._storage.execute(_EXISTS).fetchone() is not None
        return self._has_table

    # A str is an iterable of str too, but the first that fits is taken.
    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, *, type: builtins.type[T]) -> T | None: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, key: Iterable[str]) -> dict[str, Any]: ...
    @overload
    def get(self, key: Iterable[str], *, type: builtins.type[T]) -> dict[str, T]: ...

    def get(self, key: str | Iterable[str], *, type: Any = Any) -> Any:
        """The value of a key, None if it has none. Of several keys (128 at most): a dict of those that have one, in
        the order given. `type` is what a value is decoded as; one that does not fit is `Invalid`."""
        if isinstance(key, str):
            value = self._get(key, type)
            return None if value is _NOTHING else value
        found = {k: self._get(k, type) for k in _batch(key)}
        return {k: value for k, value in found.items() if value is not _NOTHING}

    def _get(self, key: str, type: Any) -> Any:
        _check_key(key)
        if not self._table_exists():
            return _NOTHING
        row = self._storage.execute(_GET, (key,)).fetchone()
        return _NOTHING if row is None else _decode(key, row[0], type)

    @overload
    def put(self, key: str, value: Any) -> None: ...
    @overload
    def put(self, key: Mapping[str, Any]) -> None: ...

    def put(self, key: str | Mapping[str, Any], value: Any = _NOTHING) -> None:
        """Set the value of a key; or the values of several, 128 at most, given as a dict. All of them or none: keys
        and values are looked at before the first is written."""
        if isinstance(key, str):
            if value is _NOTHING:
                raise Invalid(f"put({key!r}) is without a value.")
            entries = {key: value}
        elif value is not _NOTHING or not isinstance(key, Mapping):
            raise Invalid("put takes a key and a value, or a dict.")
        else:
            entries = {k: key[k] for k in _batch(key)}
        encoded = [(k, _encode(k, v)) for k, v in entries.items()]
        if encoded and not self._table_exists():
            self._storage.execute(_TABLE)
            self._has_table = True
        for entry in encoded:
            self._storage.execute(_PUT, entry)

    @overload
    def delete(self, key: str) -> bool: ...
    @overload
    def delete(self, key: Iterable[str]) -> int: ...

    def delete(self, key: str | Iterable[str]) -> bool | int:
        """Remove a key; whether it had a value. Of several keys (128 at most): how many had one."""
        if isinstance(key, str):
            return self._delete([key]) == 1
        return self._delete(_batch(key))

    def _delete(self, keys: Iterable[str]) -> int:
        for key in keys:
            _check_key(key)
        if not self._table_exists():
            return 0
        total_changes = self._storage.committer.database.total_changes
        before = total_changes()
        for key in keys:
            self._storage.execute(_DELETE, (key,))
        return total_changes() - before

    def list(
        self,
        *,
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        prefix: str = "",
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Keys with their values, in the order of the keys' UTF-8 bytes.

        From `start`, or from the first key after `start_after`; up to `end`, which is not among them; only those
        that begin with `prefix`; at most `limit` (1 or more). With `reverse` the same range from its end. Entries
        are read a few at a time, so keys that are written while this is iterated may be among them or not.
        """
        if start is not None and start_after is not None:
            raise Invalid("list takes start or start_after, not both.")
        if limit is not None and limit < 1:
            raise Invalid(f"limit is {limit}; it must be 1 or more.")
        for bound in (start, start_after, end, prefix):
            _utf8(bound or "")
        first, after = max(start or "", prefix), start_after
        if after is not None and after >= first:
            first = after
        else:
            after = None
        ends = [bound for bound in (end, _end_of_prefix(prefix)) if bound is not None]
        return self._pages(first, after is not None, min(ends, default=None), reverse, limit)

    def _pages(
        self, first: str, is_after: bool, end: str | None, reverse: bool, limit: int | None
    ) -> Iterator[tuple[str, Any]]:
        upper: str | bytes = _NO_END if end is None else end
        while limit is None or limit > 0:
            count = KV_PAGE_ENTRIES if limit is None else min(limit, KV_PAGE_ENTRIES)
            # Looked for anew each time: it may come and go.
            rows = self._page(first, is_after, upper, reverse, count) if self._table_exists() else []
            for key, value in rows:
                yield key, _decode(key, value, Any)
            if len(rows) < count:
                return
            if limit is not None:
                limit -= count
            if reverse:
                upper = rows[-1][0]
            else:
                first, is_after = rows[-1][0], True

    def _page(self, first: str, is_after: bool, upper: str | bytes, reverse: bool, count: int) -> Any:
        sql = (
            f"SELECT key, value FROM _penstock_kv WHERE key {'>' if is_after else '>='} ?1 AND key < ?2"
            f" ORDER BY key {'DESC' if reverse else 'ASC'} LIMIT ?3"
        )
        return self._storage.execute(sql, (first, upper, count)).fetchall()


def _batch(keys: Iterable[str]) -> dict[str, None]:
    """The keys, each once."""
    unique = dict.fromkeys(keys)
    if len(unique) > KV_BATCH_KEYS_MAX:
        raise Invalid(f"{len(unique)} keys at once; the limit is {KV_BATCH_KEYS_MAX}.")
    return unique


def _utf8(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"The key {key[:100]!r} is not valid Unicode: {error.reason}.") from error


def _check_key(key: str) -> int:
    """Gives its size in bytes."""
    if not isinstance(key, str):
        raise Invalid(f"A key is a string, not {type(key).__name__}.")
    size = len(_utf8(key))
    if not 1 <= size <= KV_KEY_BYTES_MAX:
        raise Invalid(f"The key {key[:100]!r} has {size} bytes; it must have 1 to {KV_KEY_BYTES_MAX}.")
    return size


def _encode(key: str, value: Any) -> bytes:
    key_size = _check_key(key)
    try:
        encoded = msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise Invalid(f"The value of {key[:100]!r} cannot be stored: {error}.") from error
    if key_size + len(encoded) > KV_ENTRY_BYTES_MAX:
        raise Invalid(
            f"The key {key[:100]!r} and its value have {key_size + len(encoded)} bytes; the limit is "
            f"{KV_ENTRY_BYTES_MAX}."
        )
    return encoded


def _decode(key: str, encoded: bytes, type: Any) -> Any:
    try:
        return msgspec.msgpack.decode(encoded, type=type)
    except msgspec.ValidationError as error:
        raise Invalid(f"The value of {key[:100]!r} is not of that type: {error}.") from error
    except msgspec.DecodeError as error:
        raise Corrupt(f"The value of {key[:100]!r} is damaged: {error}.") from error


def _end_of_prefix(prefix: str) -> str | None:
    """The first text after all that begin with `prefix`; None if there is none. UTF-8 sorts as code points do."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            # What follows U+D7FF in UTF-8 is U+E000: between them are the surrogates, which are no characters.
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None
