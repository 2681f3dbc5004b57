"""One call of a transform's function, apart from the calling: what it is given, and what of its result is taken."""

from __future__ import annotations

import traceback
from pathlib import Path

import msgspec

from penstock.apps.source import is_users
from penstock.apps.transform import Records
from penstock.apps.transform_run import Failed, Returned, bounded_detail
from penstock.base.limits import TRANSFORM_DETAIL_LENGTH_MAX

_decoder = msgspec.json.Decoder(dict)
#: Of the file's path and of the function's name.
_PLACE_LENGTH_MAX = 200
_encoder = msgspec.json.Encoder()


def decode_records(ndjson: bytes) -> Records:
    """The records as Python objects. Raises `RecursionError` for one that is nested too deeply."""
    records: Records = _decoder.decode_lines(ndjson)
    return records


def take_result(result: object, bytes_max: int) -> Returned | Failed:
    """What the function returned, as NDJSON of up to `bytes_max`."""
    if not isinstance(result, list):
        found = "None" if result is None else f"a {type(result).__name__}"
        hint = " To drop all records, return an empty list." if result is None else ""
        return Failed("invalid_result", f"The transform returned {found}; it must return a list of records.{hint}")
    for index, record in enumerate(result):
        if not isinstance(record, dict):
            problem = f"Item {index} of the returned list is a {type(record).__name__}; each must be a dict."
            return Failed("invalid_result", problem)
    try:
        ndjson = _encoder.encode_lines(result)
    except MemoryError:
        return Failed("too_large", "There is not enough memory to write the returned records as JSON.")
    # Whatever it is (a type without a form in JSON, a list in itself, a lone surrogate, a property that raises):
    # the records cannot be written, and the process goes on.
    except Exception as error:  # noqa: BLE001
        problem = _named("The returned records cannot be written as JSON: ", error)
        return Failed("invalid_result", bounded_detail(problem))
    if len(ndjson) > bytes_max:
        return Failed(
            "too_large", f"The returned records are {len(ndjson):,} bytes of JSON; {bytes_max:,} may be returned."
        )
    if ndjson.count(b"\n") != len(result):  # a msgspec.Raw is written as it is
        return Failed("invalid_result", "A returned record holds raw JSON of more than one line.")
    return Returned(ndjson, len(result))


def raised(error: BaseException, folder: Path) -> Failed:
    """What the function raised, with the last place in the user's own code, which is in `folder`."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if is_users(frame.filename, folder):
            file = str(Path(frame.filename).relative_to(folder))[-_PLACE_LENGTH_MAX:]
            place = f" ({file}:{frame.lineno} in {frame.name[:_PLACE_LENGTH_MAX]})"
    # The place is the more useful part: a long text is cut to leave room for it.
    return Failed("error", _named("", error)[: TRANSFORM_DETAIL_LENGTH_MAX - len(place)] + place)


def _named(before: str, error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's exception whose text cannot be made
        text = "(its text cannot be shown)"
    # A lone surrogate could not be sent to the executor.
    return f"{before}{type(error).__name__}: {text}".rstrip(": ").encode(errors="replace").decode()
