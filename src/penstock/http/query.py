"""`POST /client/v4/accounts/{account}/query`: SQL over the records of pipelines."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.errors import Invalid
from penstock.base.limits import QUERY_SQL_BYTES_MAX, RECORDS_QUERY_ROWS_MAX, Limits
from penstock.http.auth import lacks_scope
from penstock.http.control import Endpoint, envelope, grants_of, read_body
from penstock.pipelines.query.process import CODE_QUERY
from penstock.pipelines.query.queries import Queries, Reader

_ROWS_DEFAULT = 100


class _Query(Struct, frozen=True, forbid_unknown_fields=True):
    sql: str
    live: bool = False
    limit: int = _ROWS_DEFAULT


class QueryRoutes:
    def __init__(self, queries: Queries, limits: Limits) -> None:
        self._queries = queries
        self._limits = limits
        self.endpoints = [
            Endpoint(
                "POST", "/client/v4/accounts/{account}/query", "pipelines:read", self.query, names_in_body=True
            )
        ]

    async def query(self, request: Request) -> Response:
        query = _read_query(await read_body(request, self._limits))
        grants = grants_of(request)
        reader = Reader(
            request.path_params["account"],
            may_read=lambda name: grants.cover("pipelines:read", name),
            refusal=lambda name: lacks_scope("pipelines:read", name),
        )
        found = await self._queries.run(reader, query.sql, query.live, query.limit)
        return envelope(
            {
                "columns": [
                    {"name": name, "type": type_} for name, type_ in zip(found.columns, found.types, strict=True)
                ],
                "rows": Raw(b"[" + found.rows + b"]"),
                "truncated": found.truncated,
                "files": {
                    "read": found.files_read,
                    "left_out": found.files_left_out,
                    "missing": found.files_missing,
                },
                "forgotten_records": found.forgotten_records,
            }
        )


def _read_query(body: bytes) -> _Query:
    try:
        query = msgspec.json.decode(body, type=_Query)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f'The body must be {{"sql": "SELECT …"}}: {error}.', code=CODE_QUERY) from error
    if not 1 <= query.limit <= RECORDS_QUERY_ROWS_MAX:
        raise Invalid(f"limit must be from 1 to {RECORDS_QUERY_ROWS_MAX}.", code=CODE_QUERY)
    if len(query.sql.encode()) > QUERY_SQL_BYTES_MAX:
        raise Invalid(f"sql has more than {QUERY_SQL_BYTES_MAX} bytes.", code=CODE_QUERY)
    return query
