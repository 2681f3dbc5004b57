"""From what a user sends to the bodies of requests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from penstock.base.errors import Invalid, TooLarge

#: One record: a dict, a msgspec Struct, a dataclass, or the JSON of an object as bytes.
Record = object
#: Records, or the JSON of an array of objects as bytes.
Records = Iterable[Record] | bytes

#: The brackets of an array, and the comma after each record but the last.
_BRACKETS_BYTES = 2
_COMMA_BYTES = 1

_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode_records(records: Records, bytes_max: int) -> list[bytes]:
    """The JSON of each. Raises `Invalid` or `TooLarge` with the number of the first that cannot be sent, before
    anything is."""
    if isinstance(records, (bytes, bytearray)):
        try:
            records = [bytes(raw) for raw in _array.decode(records)]
        except (msgspec.DecodeError, RecursionError) as error:
            raise Invalid(f"The bytes are not a JSON array of records ({error}).") from error
    elif isinstance(records, (str, dict)) or not isinstance(records, Iterable):
        raise Invalid(f"records is a {type(records).__name__}; it must be a list of records, or bytes of JSON.")
    return [encode_record(record, bytes_max, f"Record {index}") for index, record in enumerate(records)]


def encode_record(record: Record, bytes_max: int, what: str = "The record") -> bytes:
    """Its JSON. `what` names it in errors; `bytes_max` is the limit on a body that holds it alone."""
    if isinstance(record, (bytes, bytearray)):
        encoded = _checked(bytes(record), what)
    else:
        try:
            encoded = msgspec.json.encode(record)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise Invalid(f"{what} is no JSON: {error}.") from error
        if not encoded.startswith(b"{"):
            raise Invalid(f"{what} is a {type(record).__name__}; each must be an object: a dict, say.")
    if len(encoded) + _BRACKETS_BYTES > bytes_max:
        raise TooLarge(f"{what} has {len(encoded)} bytes; body_bytes_max, {bytes_max}, leaves it no room.")
    return encoded


def _checked(record: bytes, what: str) -> bytes:
    """Checked here, because the server refuses a whole body for one bad record in it."""
    try:
        record.decode()  # the decoder does not look into strings
        _object.decode(record)
    except UnicodeDecodeError as error:
        raise Invalid(f"{what} is not UTF-8: byte {error.start} is wrong.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"{what} is not the JSON of an object ({error}).") from error
    return record.strip()


def split(records: Sequence[bytes], bytes_max: int) -> Iterator[Sequence[bytes]]:
    """The records in order, in parts whose bodies have at most `bytes_max` bytes. (One record alone always fits:
    `encode_record` saw to that.)"""
    first, size = 0, _BRACKETS_BYTES
    for index, record in enumerate(records):
        more = len(record) + _COMMA_BYTES
        if index > first and size + more - _COMMA_BYTES > bytes_max:
            yield records[first:index]
            first, size = index, _BRACKETS_BYTES
        size += more
    if first < len(records):
        yield records[first:]


def body_of(records: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(records)
