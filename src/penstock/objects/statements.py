"""Splitting a query into its statements. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

import apsw

#: What a semicolon in it does not end: strings, names and comments; then the semicolon itself.
_TOKEN = re.compile(
    r"""'[^']*' | "[^"]*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|\Z) | ;""", re.VERBOSE | re.DOTALL
)
# Atomic (?>...): or a comment could be made longer until it swallows a statement.
_NOTHING = re.compile(r"(?> \s | ; | --[^\n]* | /\*.*?(?:\*/|\Z) )*", re.VERBOSE | re.DOTALL)


@lru_cache(maxsize=256)
def split(query: str) -> tuple[str, ...]:
    """The statements of a query, each with its semicolon if it has one. Empty ones are left out."""
    statements, start = [], 0
    for token in _TOKEN.finditer(query):
        # The body of a trigger has semicolons too: SQLite knows whether it is at its end.
        if token[0] == ";" and apsw.complete(query[start : token.end()]):
            statements.append(query[start : token.end()])
            start = token.end()
    statements.append(query[start:])
    return tuple(statement for statement in statements if not _NOTHING.fullmatch(statement))
