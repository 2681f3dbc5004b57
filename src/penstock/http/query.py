"""`POST /client/v4/accounts/{account}/query`: SQL over the records of pipelines."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import Invalid, NotFound, Overloaded
from penstock.base.limits import QUERY_SQL_BYTES_MAX, RECORDS_QUERY_ROWS_MAX, Limits
from penstock.http.auth import lacks_scope
from penstock.http.control import Endpoint, envelope, grants_of, read_body
from penstock.pipelines.query.process import CODE_QUERY
from penstock.pipelines.query.queries import Queries, Reader

_ROWS_DEFAULT = 100


class RecordsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    sql: Annotated[
        str,
        Meta(
            description=f"One SELECT whose tables are pipelines, up to {QUERY_SQL_BYTES_MAX:,} bytes.",
            examples=['select event, count(*) from "my-clickstream" group by event'],
        ),
    ]
    live: Annotated[bool, Meta(description="With the records that are in no file yet, too.")] = False
    limit: Annotated[
        int,
        Meta(
            description="Rows of the answer.",
            extra_json_schema={"minimum": 1, "maximum": RECORDS_QUERY_ROWS_MAX},
        ),
    ] = _ROWS_DEFAULT


class Column(Struct, frozen=True):
    """`type` is DuckDB's."""

    name: str
    type: str


class QueriedFiles(Struct, frozen=True):
    """Files `left_out` cannot hold what the conditions on partitions ask for; those `missing` are not in their
    bucket any more."""

    read: int
    left_out: int
    missing: int


class RecordsFound(Struct, frozen=True):
    """Rows are lists of values in the order of the columns. Decimals, times, intervals and UUIDs are texts, blobs
    base64, NaN and infinity null. `forgotten_records` were delivered so long ago that the server does not know
    their files."""

    columns: list[Column]
    rows: Annotated[Raw, Meta(extra_json_schema={"type": "array", "items": {"type": "array"}})]
    truncated: bool
    files: QueriedFiles
    forgotten_records: int


class QueryRoutes:
    def __init__(self, queries: Queries, limits: Limits) -> None:
        self._queries = queries
        self._limits = limits
        self.endpoints = [
            Endpoint(
                *("POST", "/client/v4/accounts/{account}/query", "pipelines:read", self.query_records),
                names_in_body=True,
                tag="Records",
                body=RecordsQuery,
                result=RecordsFound,
                errors=(NotFound, Overloaded),
            )
        ]

    async def query_records(self, request: Request) -> Response:
        """Query records with SQL.

        The token must be good for each pipeline that the query names. 400: the SQL is wrong, in DuckDB's words, or
        takes more time or memory than a query may. 413: it needs too much copied, or chooses from too many files.
        429: two queries run on the executor already.
        """
        query = _read_query(await read_body(request, self._limits))
        grants = grants_of(request)
        reader = Reader(
            request.path_params["account"],
            may_read=lambda name: grants.cover("pipelines:read", name),
            refusal=lambda name: lacks_scope("pipelines:read", name),
        )
        found = await self._queries.run(reader, query.sql, query.live, query.limit)
        return envelope(
            RecordsFound(
                [Column(name, type_) for name, type_ in zip(found.columns, found.types, strict=True)],
                Raw(b"[" + found.rows + b"]"),
                found.truncated,
                QueriedFiles(found.files_read, found.files_left_out, found.files_missing),
                found.forgotten_records,
            )
        )


def _read_query(body: bytes) -> RecordsQuery:
    try:
        query = msgspec.json.decode(body, type=RecordsQuery)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f'The body must be {{"sql": "SELECT …"}}: {error}.', code=CODE_QUERY) from error
    if not 1 <= query.limit <= RECORDS_QUERY_ROWS_MAX:
        raise Invalid(f"limit must be from 1 to {RECORDS_QUERY_ROWS_MAX}.", code=CODE_QUERY)
    if len(query.sql.encode()) > QUERY_SQL_BYTES_MAX:
        raise Invalid(f"sql has more than {QUERY_SQL_BYTES_MAX} bytes.", code=CODE_QUERY)
    return query
