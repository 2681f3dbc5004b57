"""JSON as another reader has it, the standard library's: what the server takes is compared with what this takes."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def read(text: bytes) -> Any:
    """JSON by another reader, to the letter: numbers as text, repeated keys kept. None if it is none, by
    RFC 8259 and in UTF-8 (so without lone surrogates, which no UTF-8 text can hold)."""
    try:
        value = json.loads(
            text.decode(),
            parse_constant=_refuse,
            parse_int=lambda digits: ("number", digits),
            parse_float=lambda digits: ("number", digits),
            object_pairs_hook=lambda pairs: {"pairs": pairs},
        )
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return None
    return value


def records_of(body: bytes) -> list[Any] | None:
    """What a body means to this reader: an array of objects, one object, or one on each line. None if nothing."""
    value = read(body)
    if value is None and body.lstrip(b" \t\r\n")[:1] == b"{":
        value = [read(line) for line in body.split(b"\n") if line.strip(b" \t\r")]
    elif isinstance(value, dict):
        value = [value]
    return (
        value if value and isinstance(value, list) and all(isinstance(record, dict) for record in value) else None
    )
