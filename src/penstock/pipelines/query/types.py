"""Which type the column of a field has, from what all records have in it. Pure.

Texts are never taken for times: whether a column is one would then hang on a single record. What has fields or
items of its own is JSON.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Numbers of so many digits fit into 64 bits with a sign.
_BIGINT_DIGITS = 18

_WHOLE = {"UBIGINT", "BIGINT"}
_NUMBER = {*_WHOLE, "HUGEINT", "UHUGEINT", "DOUBLE"}


def column_type(kinds: Iterable[str | None], digits: int) -> str:
    """`kinds` are DuckDB's names for the types of JSON values; `digits` is the length of the longest whole
    number."""
    found = {kind for kind in kinds if kind not in (None, "NULL")}
    if not found:
        return "JSON"
    if found <= _WHOLE:
        return "BIGINT" if digits <= _BIGINT_DIGITS else "HUGEINT"
    if found <= _NUMBER:
        return "DOUBLE"
    return found.pop() if found in ({"VARCHAR"}, {"BOOLEAN"}) else "JSON"
