"""`/client/v4/accounts/{account}/workers/durable_objects/namespaces`: which objects there are, and how they are.

The first two routes are Cloudflare's; what an object's description says beyond theirs, and the other two, are ours.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field, structs
from starlette.requests import Request
from starlette.responses import Response

from penstock.apps import Application
from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import LIST_PER_PAGE_MAX, QUERY_ROWS_MAX, QUERY_SQL_BYTES_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body
from penstock.http.parameters import PageInfo, Paging, Text, WholeNumber
from penstock.objects import Runtime
from penstock.objects.inspection import Description, Inspection

_BASE = "/client/v4/accounts/{account}/workers/durable_objects/namespaces"
_OBJECTS = _BASE + "/{namespace}/objects"

#: Cloudflare's codes: no such namespace, a parameter that is not valid, no such object.
CODE_NO_NAMESPACE = 10066
CODE_PARAMETER = 10077
CODE_NO_OBJECT = 10078

_ROWS_DEFAULT = 100
_KEY = re.compile(r"[0-9a-f]{64}")

_PAGING = Paging(CODE_PARAMETER)
_LIMIT = WholeNumber("limit", "Objects of a page.", LIST_PER_PAGE_MAX, LIST_PER_PAGE_MAX, CODE_PARAMETER)
_NAME = Text("name", "Only the object of this name.")
_CURSOR = Text(
    "cursor", "That of the page before; empty or left out for the first page.", pattern="^([0-9a-f]{64})?$"
)


class ObjectQuery(Struct, frozen=True, forbid_unknown_fields=True):
    sql: Annotated[
        str,
        Meta(
            description=f"One SELECT, or a pragma about the schema, up to {QUERY_SQL_BYTES_MAX:,} bytes.",
            examples=["SELECT name FROM sqlite_schema"],
        ),
    ]
    limit: Annotated[
        int, Meta(description="Rows of the answer.", extra_json_schema={"minimum": 1, "maximum": QUERY_ROWS_MAX})
    ] = _ROWS_DEFAULT


class Namespace(Struct, frozen=True):
    """A class of objects. `id` is the place of the class's objects: its name, unless it was renamed."""

    id: str
    name: str
    class_name: str = field(name="class")
    script: str
    use_sqlite: bool


class Object(Description, frozen=True, kw_only=True):
    """`name` is null if the object never started to the end. `error` says why its database could not be read, if it
    could not. `alarm` is null if there is none. Times are milliseconds since the Unix epoch."""

    hasStoredData: bool


class Cursors(Struct, frozen=True):
    after: str


class ObjectsInfo(Struct, frozen=True):
    """`cursor` leads to the next page; it is empty after the last."""

    count: int
    cursor: str
    cursors: Cursors


class ObjectRows(Struct, frozen=True):
    """A blob is an object with `base64`. `truncated`: there are more rows, or more than 4 MiB of values."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class NamespaceRoutes:
    def __init__(self, runtime: Runtime, inspection: Inspection, application: Application, limits: Limits) -> None:
        self._runtime = runtime
        self._inspection = inspection
        self._application = application
        self._limits = limits
        self.endpoints = [
            Endpoint(
                *("GET", _BASE, "objects:read", self.list_namespaces),
                tag="Durable objects",
                query=(_PAGING,),
                result=list[Namespace],
                info=PageInfo,
            ),
            Endpoint(
                *("GET", _OBJECTS, "objects:read", self.list_objects),
                tag="Durable objects",
                query=(_LIMIT, _CURSOR, _NAME),
                result=list[Object],
                info=ObjectsInfo,
            ),
            Endpoint(
                *("GET", _OBJECTS + "/{object}", "objects:read", self.get_object),
                tag="Durable objects",
                result=Object,
            ),
            Endpoint(
                *("POST", _OBJECTS + "/{object}/query", "objects:read", self.query_object),
                tag="Durable objects",
                body=ObjectQuery,
                result=ObjectRows,
            ),
        ]

    async def list_namespaces(self, request: Request) -> Response:
        """List classes of objects."""
        page, per_page = _PAGING.read(request)
        known = sorted(self._runtime.namespaces.items())
        shown = known[(page - 1) * per_page : page * per_page]
        info = PageInfo(page, per_page, len(shown), len(known))
        return envelope([self._namespace(*pair) for pair in shown], result_info=info)

    def _namespace(self, class_name: str, namespace: str) -> Namespace:
        is_users = class_name in self._application.class_names
        script = self._application.source if is_users else "penstock"
        return Namespace(namespace, class_name, class_name, script, use_sqlite=True)

    async def list_objects(self, request: Request) -> Response:
        """List objects of a class.

        They come in the order of their ids. With `name`, the result is the object of that name, or empty. Nobody is
        woken by being looked at.
        """
        namespace = self._namespace_of(request)
        limit, name, cursor = _LIMIT.read(request), _NAME.read(request), _CURSOR.read(request) or ""
        if cursor and not _KEY.fullmatch(cursor):
            raise Invalid("cursor must be the one that came with the page before.", code=CODE_PARAMETER)
        if name is not None:
            keys, after = [self._key(namespace, name)], ""
        else:
            keys = await self._inspection.keys(namespace, cursor, limit)
            after = keys[-1] if len(keys) == limit else ""
        found = await self._inspection.describe(namespace, keys)
        info = ObjectsInfo(len(found), after, Cursors(after))
        return envelope([_answer(description) for description in found], result_info=info)

    async def get_object(self, request: Request) -> Response:
        """Get an object.

        How it is; it is not woken for that.
        """
        namespace, key = self._namespace_of(request), _key_of(request)
        found = await self._inspection.describe(namespace, [key])
        if not found:
            raise _no_object(key)
        return envelope(_answer(found[0]))

    async def query_object(self, request: Request) -> Response:
        """Query an object's database with SQL.

        It is only read, as it is on disk. The query ends with 400 after 2 seconds.
        """
        namespace, key = self._namespace_of(request), _key_of(request)
        query = _read_query(await read_body(request, self._limits))
        try:
            found = await self._inspection.query(namespace, key, query.sql, query.limit)
        except NotFound:
            raise _no_object(key) from None
        rows = [[_json_value(value) for value in row] for row in found.rows]
        return envelope(ObjectRows(list(found.columns), rows, found.truncated))

    def _namespace_of(self, request: Request) -> str:
        namespace: str = request.path_params["namespace"]
        if namespace not in self._runtime.namespaces.values():
            raise NotFound(f"There is no namespace {namespace[:100]!r}.", code=CODE_NO_NAMESPACE)
        return namespace

    def _key(self, namespace: str, name: str) -> str:
        [class_name] = [known for known, other in self._runtime.namespaces.items() if other == namespace]
        return self._runtime.namespace(class_name).id_from_name(name).key


def _key_of(request: Request) -> str:
    key: str = request.path_params["object"]
    if not _KEY.fullmatch(key):
        raise Invalid(
            "An object's id is 64 hexadecimal digits; find it by the name, with ?name=<name>.", code=CODE_PARAMETER
        )
    return key


def _no_object(key: str) -> NotFound:
    return NotFound(f"There is no object with the id {key}.", code=CODE_NO_OBJECT)


def _read_query(body: bytes) -> ObjectQuery:
    try:
        query = msgspec.json.decode(body, type=ObjectQuery)
    except msgspec.DecodeError as error:
        raise Invalid(f'The body must be {{"sql": "SELECT …"}}: {error}.', code=CODE_PARAMETER) from error
    if not 1 <= query.limit <= QUERY_ROWS_MAX:
        raise Invalid(f"limit must be from 1 to {QUERY_ROWS_MAX}.", code=CODE_PARAMETER)
    if len(query.sql.encode()) > QUERY_SQL_BYTES_MAX:
        raise Invalid(f"sql has more than {QUERY_SQL_BYTES_MAX} bytes.", code=CODE_PARAMETER)
    return query


def _answer(description: Description) -> Object:
    return Object(**structs.asdict(description), hasStoredData=True)


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value
