"""From a request's body to the rows that are stored. Pure.

The body is split into its records without building Python objects of them: what a client sent is what lands
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

#: What is taken, in the words of an error.
_FORMATS = "a JSON array of objects, one object, or one object on each line"

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}

_array = msgspec.json.Decoder(list[msgspec.Raw])
_value = msgspec.json.Decoder(msgspec.Raw)
_FIRST_CHARACTER = re.compile(rb"[ \t\r\n]*(.)", re.DOTALL)
_NOT_AN_OBJECT = re.compile(rb"\n[^{]")


@dataclass(frozen=True, slots=True)
class Batch:
    """A request's records: NDJSON, each line ended by a newline."""

    ndjson: bytes
    records: int


def parse_batch(body: bytes | bytearray) -> Batch:
    """The records in a JSON array of objects, in one object, or in lines of one object each (blank lines do not
    count). What it is, its first character says, not the request's content type.

    Raises `Invalid`, saying what is wrong and where; then nothing of the body is taken.
    """
    if not body.isascii():
        _check_utf8(body)  # the splitter does not look into strings
    if body[:1] != b"[":  # which most start with
        first = _FIRST_CHARACTER.match(body)
        if first is not None and first[1] == b"{":
            return _parse_lines(body)
    return _parse_array(body)


def _parse_array(body: bytes | bytearray) -> Batch:
    try:
        raws = _array.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        raise Invalid(f"The body must be {_FORMATS} ({_reason(error)}).", code=CODE_NOT_RECORDS) from error
    except msgspec.DecodeError as error:
        raise _not_json(body, error) from error
    if not raws:
        raise Invalid("The array is empty: send at least one record.", code=CODE_NOT_RECORDS)
    if b"\n" in body or b"\r" in body:
        raws = _on_one_line_each(raws)
    ndjson = b"\n".join([*raws, b""])
    # A compact record holds no newline (JSON escapes them in strings), so each line starts a record, and a record
    # is an object if its line starts with a brace. One search in C, instead of a look at each record in Python.
    if ndjson[:1] != b"{" or _NOT_AN_OBJECT.search(ndjson):
        raise _first_that_is_no_object(raws)
    return Batch(ndjson, len(raws))


def _parse_lines(body: bytes | bytearray) -> Batch:
    """One object, on any number of lines, or one on each line."""
    try:
        raws = _value.decode_lines(body)
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.DecodeError as error:
        wrong = _first_wrong_line(body)
        # Not even the first line is complete: it was meant as one object on several.
        raise wrong[1] if wrong and wrong[0] else _not_json(body, error) from error
    ndjson = b"\n".join([*raws, b""])
    # The splitter is content with any white space, or none, between two values and inside of them. That each has a
    # line of its own is seen at once where the lines are as they will be stored; otherwise each is looked at.
    as_stored = ndjson.count(b"\n") == len(raws) and body in (ndjson, ndjson[:-1])
    if len(raws) > 1 and not as_stored:
        wrong = _first_wrong_line(body)
        if wrong is not None:
            raise wrong[1]
    if b"\r" in body or len(raws) == 1:
        raws = _on_one_line_each(raws)
        ndjson = b"\n".join([*raws, b""])
    if _NOT_AN_OBJECT.search(ndjson):
        wrong = _first_wrong_line(body)
        assert wrong is not None
        raise wrong[1]
    return Batch(ndjson, len(raws))


def _first_wrong_line(body: bytes | bytearray) -> tuple[int, Invalid] | None:
    """How many lines with one object there are before the first that has something else, and what is wrong with
    that one."""
    right = 0
    for number, line in enumerate(bytes(body).split(b"\n"), 1):
        line = line.strip(b" \t\r")
        if line:
            wrong = _wrong_with_line(number, line)
            if wrong is not None:
                return right, wrong
            right += 1
    return None


def _wrong_with_line(number: int, line: bytes) -> Invalid | None:
    try:
        values = _value.decode_lines(line)
    except RecursionError:
        return _too_deep()
    except msgspec.DecodeError as error:
        return Invalid(f"Line {number} is not JSON ({_reason(error)}). Send {_FORMATS}.", code=CODE_NOT_JSON)
    if len(values) > 1:
        return Invalid(f"Line {number} has {len(values)} values: put each on its own.", code=CODE_NOT_RECORDS)
    if not line.startswith(b"{"):
        return Invalid(f"Line {number} is {_kind(line)}: each must be a JSON object.", code=CODE_NOT_RECORDS)
    return None


def _check_utf8(body: bytes | bytearray) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        problem = f"The body is not UTF-8: byte {error.start} is wrong. Send {_FORMATS} in UTF-8."
        for coding, magic in _MAGIC.items():
            if body.startswith(magic):
                problem = f"The body looks like {coding}: say so with the header 'Content-Encoding: {coding}'."
        raise Invalid(problem, code=CODE_NOT_JSON) from error


def _not_json(body: bytes | bytearray, error: msgspec.DecodeError) -> Invalid:
    if not body.strip():
        return Invalid(f"The body is empty. Send {_FORMATS}.", code=CODE_NOT_JSON)
    return Invalid(f"The body is not JSON ({_reason(error)}). Send {_FORMATS}.", code=CODE_NOT_JSON)


def _too_deep() -> Invalid:
    return Invalid("The body is nested too deeply.", code=CODE_NOT_JSON)


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ").replace("`", "")
    return text[:1].lower() + text[1:]


def _on_one_line_each(raws: list[msgspec.Raw]) -> list[msgspec.Raw]:
    try:
        return [_on_one_line(raw) for raw in raws]
    except RecursionError as error:
        raise _too_deep() from error


def _on_one_line(raw: msgspec.Raw) -> msgspec.Raw:
    record = bytes(raw)
    if b"\n" in record or b"\r" in record:
        return msgspec.Raw(msgspec.json.format(record, indent=-1))
    return raw


def _first_that_is_no_object(raws: list[msgspec.Raw]) -> Invalid:
    for index, raw in enumerate(raws):
        record = bytes(raw)
        if not record.startswith(b"{"):
            return Invalid(f"Record {index} is {_kind(record)}: each must be a JSON object.", code=CODE_NOT_RECORDS)
    raise AssertionError("every record is an object")


def _kind(value: bytes) -> str:
    kind = {b"[": "an array", b'"': "a string", b"t": "a boolean", b"f": "a boolean", b"n": "null"}
    return kind.get(value[:1], "a number")
