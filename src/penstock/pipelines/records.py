"""From a request's body to the rows that are stored. Pure.

The array is split into its elements without building Python objects of them: what a client sent is what lands
in the file, number formats and key order included. Only white space between tokens may change, because a
record must fit on one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from penstock.base.errors import Invalid

#: Wire codes of the ingest endpoint (Cloudflare's, as its clients know them).
CODE_NOT_RECORDS = 1002
CODE_NOT_JSON = 1003

_GZIP_MAGIC = b"\x1f\x8b"

_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_NOT_AN_OBJECT = re.compile(rb"\n[^{]")


@dataclass(frozen=True, slots=True)
class Batch:
    """A request's records: NDJSON, each line ended by a newline."""

    ndjson: bytes
    records: int


def parse_batch(body: bytes | bytearray) -> Batch:
    """The records in a JSON array of objects. Raises `Invalid`, saying what is wrong and where."""
    raws = _split(body)
    if not raws:
        raise Invalid("The array is empty: send at least one record.", code=CODE_NOT_RECORDS)
    if b"\n" in body or b"\r" in body:
        try:
            raws = [_on_one_line(raw) for raw in raws]
        except RecursionError as error:
            raise _too_deep() from error
    ndjson = b"\n".join([*raws, b""])
    # A compact record holds no newline (JSON escapes them in strings), so each line starts a record, and a record
    # is an object if its line starts with a brace. One search in C, instead of a look at each record in Python.
    if ndjson[:1] != b"{" or _NOT_AN_OBJECT.search(ndjson):
        raise _first_that_is_no_object(raws)
    return Batch(ndjson, len(raws))


def _split(body: bytes | bytearray) -> list[msgspec.Raw]:
    try:
        if not body.isascii():
            body.decode()  # the splitter does not look into strings
        return _decoder.decode(body)
    except UnicodeDecodeError as error:
        problem = f"The body is not UTF-8: byte {error.start} is wrong."
        if body.startswith(_GZIP_MAGIC):
            problem = "The body looks like gzip, which is not taken."
        raise Invalid(f"{problem} Send a JSON array of objects in UTF-8.", code=CODE_NOT_JSON) from error
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        raise Invalid(_not_an_array(body, error), code=CODE_NOT_RECORDS) from error
    except msgspec.DecodeError as error:
        if not body.strip():
            raise Invalid("The body is empty. Send a JSON array of objects.", code=CODE_NOT_JSON) from error
        raise Invalid(
            f"The body is not JSON ({_reason(error)}). Send a JSON array of objects.", code=CODE_NOT_JSON
        ) from error


def _not_an_array(body: bytes | bytearray, error: msgspec.ValidationError) -> str:
    if body.lstrip().startswith(b"{"):
        return (
            "The body must be a JSON array of objects: put records into [ and ], with commas between. "
            "Newline-delimited JSON is not taken."
        )
    return f"The body must be a JSON array of objects ({_reason(error)})."


def _too_deep() -> Invalid:
    return Invalid("The body is nested too deeply.", code=CODE_NOT_JSON)


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ").replace("`", "")
    return text[:1].lower() + text[1:]


def _on_one_line(raw: msgspec.Raw) -> msgspec.Raw:
    record = bytes(raw)
    if b"\n" in record or b"\r" in record:
        return msgspec.Raw(msgspec.json.format(record, indent=-1))
    return raw


def _first_that_is_no_object(raws: list[msgspec.Raw]) -> Invalid:
    for index, raw in enumerate(raws):
        record = bytes(raw)
        if not record.startswith(b"{"):
            kind = {b"[": "an array", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
            found = kind.get(record[:1], "a number")
            return Invalid(f"Record {index} is {found}: each must be a JSON object.", code=CODE_NOT_RECORDS)
    raise AssertionError("every record is an object")
