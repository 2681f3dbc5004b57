"""What the SQL of user classes may do: SQLite's authorizer and limits.

An object's database holds tables of ours beside the user's, and its transactions are the runtime's. So a statement
that is not ours may not reach our tables, begin or end a transaction, reach other files, or change how the database
is kept. What is allowed is listed; the rest is refused, with the reason. The lists are Cloudflare's.

SQLite asks the authorizer while it compiles a statement: a statement that is found compiled costs nothing.

Two things SQLite does not tell it: the new name in `ALTER TABLE ... RENAME TO`, and what a view, a trigger or a
foreign key refers to (until it is used; a foreign key never). A statement that makes or changes part of the schema
is therefore refused if our prefix is anywhere in its text.

Pure but for remembering why it refused.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from penstock.base.limits import (
    SQL_BINDINGS_MAX,
    SQL_COLUMNS_MAX,
    SQL_COMPOUND_TERMS_MAX,
    SQL_EXPRESSION_DEPTH_MAX,
    SQL_FUNCTION_ARGUMENTS_MAX,
    SQL_INSTRUCTIONS_MAX,
    SQL_PATTERN_BYTES_MAX,
    SQL_ROW_BYTES_MAX,
    SQL_STEPS_BETWEEN_LOOKS,
    SQL_STEPS_MAX,
    SQL_TEXT_BYTES_MAX,
    SQL_TRIGGER_DEPTH_MAX,
)

#: Names of ours begin with this. (Not with an underscore after it: a virtual table `_penstock` would have shadow
#: tables `_penstock_...`.)
RESERVED_PREFIX = "_penstock"

#: SQLite's limits for the connection of a user's object.
LIMITS = {
    apsw.SQLITE_LIMIT_SQL_LENGTH: SQL_TEXT_BYTES_MAX,
    apsw.SQLITE_LIMIT_LENGTH: SQL_ROW_BYTES_MAX,
    apsw.SQLITE_LIMIT_COLUMN: SQL_COLUMNS_MAX,
    apsw.SQLITE_LIMIT_VARIABLE_NUMBER: SQL_BINDINGS_MAX,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: SQL_FUNCTION_ARGUMENTS_MAX,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: SQL_PATTERN_BYTES_MAX,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: SQL_EXPRESSION_DEPTH_MAX,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: SQL_COMPOUND_TERMS_MAX,
    apsw.SQLITE_LIMIT_VDBE_OP: SQL_INSTRUCTIONS_MAX,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: SQL_TRIGGER_DEPTH_MAX,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}

MODULES = frozenset({"fts5", "fts5vocab", "rtree", "rtree_i32"})

#: Virtual tables that are there without having been created, and would show how the database is kept.
_TABLES_REFUSED = frozenset({"dbstat", "carray", "fts3tokenize"})

#: sqlite.org/lang_corefunc.html and the pages after it, without those that tell about the build (sqlite_version and
#: so on) and load_extension.
_FUNCTIONS = """
core
  abs changes char coalesce concat concat_ws format glob hex if ifnull iif instr last_insert_rowid length like
  likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace round rtrim sign
  substr substring total_changes trim typeof unhex unicode unistr unistr_quote unlikely upper zeroblob
times
  current_date current_time current_timestamp date datetime julianday strftime time timediff unixepoch
aggregates
  avg count group_concat string_agg sum total
windows
  cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
mathematics
  acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
  radians sin sinh sqrt tan tanh trunc
JSON
  -> ->> json json_array json_array_insert json_array_length json_each json_error_position json_extract
  json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote json_remove
  json_replace json_set json_tree json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_each jsonb_extract
  jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set
  jsonb_tree
FTS5, R*Tree
  bm25 highlight match snippet rtreecheck
ALTER TABLE is made of these; SQLite refuses them in other statements by itself
  sqlite_add_constraint sqlite_drop_column sqlite_drop_constraint sqlite_fail sqlite_find_constraint
  sqlite_rename_column sqlite_rename_quotefix sqlite_rename_table sqlite_rename_test
"""
FUNCTIONS = frozenset(name for line in _FUNCTIONS.splitlines() if line.startswith("  ") for name in line.split())

_BOOLEANS = frozenset({"0", "1", "off", "on", "no", "yes", "false", "true"})


def _nothing(argument: str | None) -> str | None:
    return None if argument is None else "it can be read only"


def _boolean(argument: str | None) -> str | None:
    if argument is None or argument.strip("'\"").lower() in _BOOLEANS:
        return None
    return f"it is on or off, not {argument}"


def _number(argument: str | None) -> str | None:
    try:
        int(argument or "0", 0)
    except ValueError:
        return f"its argument is a number, not {argument}"
    return None


def _name(argument: str | None) -> str | None:
    return f"{argument} is a table of the runtime" if is_reserved(argument) else None


#: Allowed pragmas, each with a function that gives what is wrong with an argument.
PRAGMAS: dict[str, Callable[[str | None], str | None]] = {
    "data_version": _nothing,
    "page_size": _nothing,
    "case_sensitive_like": _boolean,
    "defer_foreign_keys": _boolean,
    "foreign_keys": _boolean,
    "ignore_check_constraints": _boolean,
    "legacy_alter_table": _boolean,
    "recursive_triggers": _boolean,
    "reverse_unordered_selects": _boolean,
    "foreign_key_check": _name,
    "foreign_key_list": _name,
    "index_info": _name,
    "index_list": _name,
    "index_xinfo": _name,
    "quick_check": _name,
    "table_info": _name,
    "table_list": _name,
    "table_xinfo": _name,
    "optimize": _number,
}

_FREE = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE, apsw.SQLITE_REINDEX, apsw.SQLITE_ANALYZE})
_ROWS = frozenset({apsw.SQLITE_READ, apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_DROPS = frozenset(
    {
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_VTABLE,
    }
)
_MAKES = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_VTABLE,
    }
)
_TEMPORARY = frozenset(
    {
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_TRIGGER,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_DROP_TEMP_TABLE,
        apsw.SQLITE_DROP_TEMP_INDEX,
        apsw.SQLITE_DROP_TEMP_TRIGGER,
        apsw.SQLITE_DROP_TEMP_VIEW,
    }
)
#: ALTER TABLE looks for what it must change in the (empty) temporary schema too.
_TEMPORARY_SCHEMA = "sqlite_temp_master"


def is_reserved(name: str | None) -> bool:
    """Whether a name is one of ours, or would look like one."""
    return name is not None and name.lower().startswith(RESERVED_PREFIX)


def why_refused(action: int, first: str | None, second: str | None, database: str | None, text: str) -> str | None:
    """Why a statement, whose text is `text`, may not do this; None if it may. The other arguments are those of
    SQLite's authorizer (sqlite.org/c3ref/c_alter_table.html)."""
    if action in _FREE:
        return None
    if action == apsw.SQLITE_FUNCTION:
        return None if second and second.lower() in FUNCTIONS else f"The function {second} is not allowed."
    if action == apsw.SQLITE_PRAGMA:
        return _why_pragma_refused(first or "", second)
    if action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
        return "Transactions are the runtime's: use storage.transaction_sync instead of BEGIN, SAVEPOINT and so on."
    if action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
        return "An object has one database: ATTACH, DETACH and VACUUM are not allowed."
    if action in _TEMPORARY or (database == "temp" and first != _TEMPORARY_SCHEMA):
        return "Temporary tables, indexes, triggers and views are not allowed."
    if action in _ROWS:
        return _why_rows_refused(action, first or "")
    if action in _DROPS or action in _MAKES:
        return _why_schema_refused(action, first, second, text)
    return f"The action {apsw.mapping_authorizer_function.get(action, action)} is not allowed."


def _why_pragma_refused(name: str, argument: str | None) -> str | None:
    wrong_with = PRAGMAS.get(name.lower())
    if wrong_with is None:
        return f"PRAGMA {name} is not allowed."
    wrong = wrong_with(argument)
    return f"PRAGMA {name}: {wrong}." if wrong else None


def _why_rows_refused(action: int, table: str) -> str | None:
    if is_reserved(table):
        return _reserved(table)
    if action == apsw.SQLITE_READ and table.lower() in _TABLES_REFUSED:
        return f"The virtual table {table} is not allowed."
    return None


def _why_schema_refused(action: int, first: str | None, second: str | None, text: str) -> str | None:
    if action in (apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_DROP_VTABLE) and (second or "").lower() not in MODULES:
        return f"Virtual tables of {second} are not allowed; allowed are {', '.join(sorted(MODULES))}."
    for name in (first, second):
        if name is not None and is_reserved(name):
            return _reserved(name)
    if action in _MAKES and RESERVED_PREFIX in text.lower():
        return (
            f"Names that begin with {RESERVED_PREFIX} are the runtime's: what makes or changes a table, an index, "
            "a view or a trigger may not mention one."
        )
    return None


def _reserved(name: str) -> str:
    return f"{name}: names that begin with {RESERVED_PREFIX} are the runtime's."


def text_too_long(text: str) -> str | None:
    """What is wrong with a query that is longer than the limit; None if it is not."""
    if len(text) > SQL_TEXT_BYTES_MAX or len(text.encode()) > SQL_TEXT_BYTES_MAX:
        return f"A query is longer than the limit of {SQL_TEXT_BYTES_MAX} bytes."
    return None


#: What SQLite says above a limit, in part, and the limit.
_LIMIT_MESSAGES = (
    ("string or blob too big", f"A row, string or blob is larger than the limit of {SQL_ROW_BYTES_MAX} bytes."),
    ("too many columns", f"The limit is {SQL_COLUMNS_MAX} columns."),
    ("too many terms in compound SELECT", f"The limit is {SQL_COMPOUND_TERMS_MAX} terms in a compound SELECT."),
    ("too many terms in", f"The limit is {SQL_COLUMNS_MAX} terms."),
    ("variable number must be", f"The limit is {SQL_BINDINGS_MAX} bindings."),
    ("too many SQL variables", f"The limit is {SQL_BINDINGS_MAX} bindings."),
    ("too many arguments on", f"The limit is {SQL_FUNCTION_ARGUMENTS_MAX} arguments of a function."),
    ("pattern too complex", f"The limit is {SQL_PATTERN_BYTES_MAX} bytes in the pattern of LIKE and GLOB."),
    ("Expression tree is too large", f"The limit is a depth of {SQL_EXPRESSION_DEPTH_MAX} in an expression."),
    ("Recursion limit", f"The limit is a depth of {SQL_EXPRESSION_DEPTH_MAX} in an expression."),
    ("too many levels of trigger", f"The limit is {SQL_TRIGGER_DEPTH_MAX} levels of triggers."),
    ("triggers nested too deep", f"The limit is {SQL_TRIGGER_DEPTH_MAX} levels of triggers."),
    ("out of memory", f"The limit is {SQL_INSTRUCTIONS_MAX} instructions in a compiled statement."),
)


def limit_passed(error: apsw.Error, text: str) -> str | None:
    """Which limit a statement, whose text is `text`, has passed, if that is what SQLite's error says."""
    too_long = text_too_long(text) if isinstance(error, apsw.TooBigError) else None
    if too_long:
        return too_long
    said = str(error)
    for part, limit in _LIMIT_MESSAGES:
        if part in said:
            return f"{said}. {limit}"
    return None


class Sandbox:
    """The authorizer of one connection. `text` is the statement about to be compiled; `reason` is why the latest
    that was refused was."""

    __slots__ = ("looks", "reason", "text")

    def __init__(self) -> None:
        self.text = ""
        self.reason = ""
        #: How often SQLite has asked whether to go on, in this query.
        self.looks = 0

    def is_too_long(self) -> bool:
        """Asked every `SQL_STEPS_BETWEEN_LOOKS` instructions."""
        self.looks += 1
        return self.looks * SQL_STEPS_BETWEEN_LOOKS > SQL_STEPS_MAX

    def authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None
    ) -> int:
        reason = why_refused(action, first, second, database, self.text)
        if reason is None:
            return apsw.SQLITE_OK
        self.reason = reason
        return apsw.SQLITE_DENY
