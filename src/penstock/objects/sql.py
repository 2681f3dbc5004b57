"""`ctx.storage.sql`: the object's own SQLite database, in SQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import apsw

from penstock.base.errors import Internal, Invalid, PenstockError
from penstock.base.limits import SQL_STEPS_BETWEEN_LOOKS, SQL_STEPS_MAX
from penstock.objects.sandbox import LIMITS, Sandbox, limit_passed, text_too_long
from penstock.objects.statements import split
from penstock.storage.database import SqlValue

if TYPE_CHECKING:
    from penstock.objects.system_storage import SystemStorage

Row = tuple[Any, ...]


class SqlError(Exception):
    """SQLite refused a statement: a mistake in it, a table that is not there, a value of the wrong type. It undid
    what the statement had done, and nothing else."""


class SqlConstraintError(SqlError):
    """A statement would have broken a constraint: UNIQUE, NOT NULL, CHECK, a foreign key."""


_NO_ROWS: Iterator[Row] = iter(())


class Rows:
    """The rows of a statement, as tuples of None, int, float, str and bytes. Each comes once."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def one(self) -> Row:
        """The only row. Raises `ValueError` if there is none or more than one."""
        rows = list(self)
        if len(rows) != 1:
            raise ValueError(f"Expected exactly one row, got {len(rows)}.")
        return rows[0]

    def first(self) -> Row | None:
        """The next row, None if there is none. The rest is let go."""
        row = next(self._rows, None)
        self._rows = _NO_ROWS
        return row

    def to_list(self) -> list[Row]:
        """All rows that have not been read yet."""
        return list(self)


class SqlCursor(Rows):
    """The rows of a query: iterate it (`for`, `next`), or take `one()`, `first()` or `to_list()`.

    Rows are read from the database as they are asked for, so a long result costs no memory; what is written to the
    same table meanwhile may be among them or not. A statement that writes is always carried out to its end at
    once, and the rows of its RETURNING are kept. Do not keep a cursor for later: until its last row is read, or it
    is gone, the log of the database cannot start again and grows.

    Reading raises what `Sql.exec` raises.
    """

    __slots__ = ("_bindings", "_sql", "_statement", "rows_read", "rows_written")

    def __init__(
        self, sql: Sql, rows: Iterator[Row], statement: str, bindings: tuple[SqlValue, ...], written: int
    ) -> None:
        self._sql = sql
        self._rows = rows
        self._statement = statement
        self._bindings = bindings
        #: Rows given so far. (Not those that SQLite had to look at to find them: it does not count them.)
        self.rows_read = 0
        #: Rows that the query inserted, changed or deleted, in all its statements: with those that triggers and
        #: foreign keys changed, and those in the tables behind a virtual table; without entries of indexes.
        self.rows_written = written

    def __iter__(self) -> Iterator[Row]:
        try:
            for row in self._rows:
                self.rows_read += 1
                yield row
        except apsw.Error as error:
            raise self._sql.error_of(error) from error

    def __next__(self) -> Row:
        try:
            row = next(self._rows)
        except apsw.Error as error:
            raise self._sql.error_of(error) from error
        self.rows_read += 1
        return row

    def first(self) -> Row | None:
        row = next(self, None)
        self._rows = _NO_ROWS
        return row

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns; empty if the statement gives no rows."""
        return self._sql.column_names(self._statement, self._bindings)


class Sql:
    """`ctx.storage.sql`: the object's own tables.

    Foreign keys are enforced. The whole of SQLite may be used but for what would reach out of the object or into
    the runtime: other databases, transactions (`storage.transaction_sync` is there for that), temporary tables,
    virtual tables other than fts5, fts5vocab, rtree and rtree_i32, names that begin with `_penstock`, and the
    pragmas and functions that are not on the list (`objects/sandbox.py`).
    """

    __slots__ = ("_committer", "_execute", "_sandbox", "_total_changes")

    def __init__(self, storage: SystemStorage) -> None:
        self._committer = storage.committer
        self._execute = storage.committer.execute
        self._total_changes = storage.committer.database.total_changes
        self._sandbox = Sandbox()
        storage.committer.database.restrict(
            self._sandbox.authorize, LIMITS, self._sandbox.is_too_long, SQL_STEPS_BETWEEN_LOOKS
        )

    def exec(self, query: str, *bindings: SqlValue) -> SqlCursor:
        """Run a query: one statement, or several with semicolons between them. The earlier ones are run to their
        end and their rows dropped; `bindings` are for the parameters (`?`, `?1`, `:name`, in their order) of the
        last.

        Bindings are None, int (64 bit), float, str and bytes; a bool is stored as 0 or 1. What is written commits
        with the rest of the step.

        Raises `Invalid` for what an object may not do, for bindings that do not fit, and above a limit (100,000
        bytes of SQL, 2.2 MB in a row, 100 columns, 100 bindings, 50 bytes in a LIKE pattern and more:
        `base/limits.py`); `SqlError` for what SQLite does not accept, among it `SqlConstraintError`; `StorageFull`
        when the disk is full: the object then starts again from what is durable.
        """
        statement = query
        self._sandbox.looks = 0
        try:
            before = self._total_changes()
            if ";" in query:
                statement = self._run_all_but_last(query)
            self._sandbox.text = statement
            rows: Any = self._execute(statement, bindings, True)
            if "returning" in statement.lower() and _writes(rows):
                # To its end: half way through, it would keep the step from being committed.
                rows = iter(rows.fetchall())
            written = self._total_changes() - before
        except (apsw.Error, TypeError, ValueError, OverflowError) as error:
            raise self.error_of(error, bindings) from error
        return SqlCursor(self, rows, statement, bindings, written)

    def _run_all_but_last(self, query: str) -> str:
        too_long = text_too_long(query)
        if too_long:
            raise Invalid(too_long)
        statements = split(query)
        if not statements:
            return ""
        for statement in statements[:-1]:
            self._sandbox.text = statement
            try:
                self._execute(statement, (), True).fetchall()
            except apsw.BindingsError as error:
                raise Invalid(
                    "Bindings are for the last statement of a query; an earlier one has parameters too: "
                    f"{statement.strip()[:100]}"
                ) from error
        return statements[-1]

    @property
    def database_size(self) -> int:
        """Bytes of the database that are in use. The file itself does not shrink; room that became free in it is
        used again."""
        if self._committer.broken is not None:
            raise self._committer.broken
        return self._committer.database.size_bytes

    def column_names(self, statement: str, bindings: tuple[SqlValue, ...]) -> tuple[str, ...]:
        """Of a statement that has been run. It is not run again."""
        names: tuple[str, ...] = ()

        def stop(cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
            nonlocal names
            names = tuple(name for name, *_ in cursor.get_description())
            return False

        try:
            self._committer.database.before_run(statement, bindings, stop)
        except apsw.Error as error:
            raise self.error_of(error) from error
        return names

    def error_of(self, error: Exception, bindings: tuple[SqlValue, ...] = ()) -> Exception:
        """What to raise for an error of apsw's. If the transaction is lost, the object starts again."""
        if self._committer.broken is not None:
            return self._committer.broken
        if isinstance(error, apsw.Error):
            disk_error = self._committer.database.translate(error)
            if isinstance(disk_error, PenstockError):
                self._committer.break_with(disk_error)
                return disk_error
        if self._committer.lost_transaction:
            # ON CONFLICT ROLLBACK, RAISE(ROLLBACK): what other calls wrote in this step is gone with it.
            lost = Internal(f"A statement rolled back the whole transaction, as only the runtime may ({error}).")
            self._committer.break_with(lost)
            return lost
        match error:
            case apsw.AuthError() | apsw.SQLError() if _is_refusal(error):
                return Invalid(self._sandbox.reason)
            case apsw.BindingsError() | TypeError() | OverflowError() | UnicodeEncodeError():
                return Invalid(_wrong_with_bindings(error, bindings))
            case apsw.InterruptError():
                return Invalid(
                    f"The query ran more than {SQL_STEPS_MAX} instructions, the limit, and nothing else can run "
                    "meanwhile. Let it look at less: with an index, or in parts."
                )
            case apsw.ConstraintError():
                return SqlConstraintError(str(error))
            case apsw.Error():
                limit = limit_passed(error, self._sandbox.text)
                return Invalid(limit) if limit else SqlError(str(error))
        return error


class SystemSql:
    """As `ctx.storage.sql`, for classes that are part of Penstock: without the sandbox and its limits, and so with
    rows of any size. Not for the same object as `ctx.storage.sql`."""

    __slots__ = ("_execute", "exec_many")

    def __init__(self, storage: SystemStorage) -> None:
        self._execute: Callable[[str, tuple[SqlValue, ...]], apsw.Cursor] = storage.committer.execute
        #: Run one statement for each row of bindings. Raises as `exec`.
        self.exec_many: Callable[[str, Sequence[tuple[SqlValue, ...]]], None] = storage.committer.execute_many

    def exec(self, query: str, *bindings: SqlValue) -> Rows:
        """Run statements. Raises what SQLite raises, and `StorageFull` when the disk is full: the object then
        starts again from what is durable."""
        return Rows(self._execute(query, bindings))


_BINDINGS = (type(None), int, float, str, bytes, bytearray, memoryview)
#: In what apsw says of a wrong number of bindings.
_USES = re.compile(r"uses (\d+)")
_INT64 = range(-(1 << 63), 1 << 63)


def _is_refusal(error: apsw.Error) -> bool:
    # For functions SQLite says so in words only.
    return isinstance(error, apsw.AuthError) or str(error).startswith("not authorized")


def _writes(cursor: apsw.Cursor) -> bool:
    """Whether a statement that has rows to give is one that writes."""
    try:
        return not cursor.is_readonly
    except apsw.ExecutionCompleteError:
        return False


def _wrong_with_bindings(error: Exception, bindings: tuple[object, ...]) -> str:
    for position, value in enumerate(bindings, start=1):
        if not isinstance(value, _BINDINGS):
            kind = type(value).__name__
            return f"Binding {position} is of type {kind}; a binding is None, an int, a float, a str or bytes."
        if isinstance(value, int) and value not in _INT64:
            return f"Binding {position} is an int of more than 64 bits: {value}."
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"Binding {position} is not valid Unicode: it has a surrogate without its partner."
    if isinstance(error, apsw.BindingsError):
        uses = _USES.search(str(error))
        if uses is not None:
            return f"The statement has {uses[1]} parameters, {len(bindings)} bindings were given."
        return f"The statement does not take {len(bindings)} bindings: {error}."
    return f"The query cannot be run: {error}."
