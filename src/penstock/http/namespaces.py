"""`/client/v4/accounts/{account}/workers/durable_objects/namespaces`: which objects there are, and how they are.

The first two routes are Cloudflare's; what an object's description says beyond theirs, and the other two, are ours.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
from msgspec import Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response

from penstock.apps import Application
from penstock.base.errors import Invalid, NotFound
from penstock.base.limits import LIST_PER_PAGE_MAX, QUERY_ROWS_MAX, QUERY_SQL_BYTES_MAX, Limits
from penstock.http.control import Endpoint, envelope, read_body, read_number
from penstock.objects import Runtime
from penstock.objects.inspection import Description, Inspection

_BASE = "/client/v4/accounts/{account}/workers/durable_objects/namespaces"
_OBJECTS = _BASE + "/{namespace}/objects"

#: Cloudflare's codes: no such namespace, a parameter that is not valid, no such object.
CODE_NO_NAMESPACE = 10066
CODE_PARAMETER = 10077
CODE_NO_OBJECT = 10078

_PER_PAGE_DEFAULT = 20
_LIMIT_DEFAULT = 100
_PAGE_MAX = 1_000_000
_ROWS_DEFAULT = 100
_KEY = re.compile(r"[0-9a-f]{64}")


class _Query(Struct, frozen=True, forbid_unknown_fields=True):
    sql: str
    limit: int = _ROWS_DEFAULT


class NamespaceRoutes:
    def __init__(self, runtime: Runtime, inspection: Inspection, application: Application, limits: Limits) -> None:
        self._runtime = runtime
        self._inspection = inspection
        self._application = application
        self._limits = limits
        self.endpoints = [
            Endpoint("GET", _BASE, "objects:read", self.list_namespaces),
            Endpoint("GET", _OBJECTS, "objects:read", self.list_objects),
            Endpoint("GET", _OBJECTS + "/{object}", "objects:read", self.get_object),
            Endpoint("POST", _OBJECTS + "/{object}/query", "objects:read", self.query_object),
        ]

    async def list_namespaces(self, request: Request) -> Response:
        page = read_number(request, "page", 1, _PAGE_MAX, CODE_PARAMETER)
        per_page = read_number(request, "per_page", _PER_PAGE_DEFAULT, LIST_PER_PAGE_MAX, CODE_PARAMETER)
        known = sorted(self._runtime.namespaces.items())
        shown = known[(page - 1) * per_page : page * per_page]
        info = {"page": page, "per_page": per_page, "count": len(shown), "total_count": len(known)}
        return envelope([self._namespace(*pair) for pair in shown], result_info=info)

    def _namespace(self, class_name: str, namespace: str) -> dict[str, Any]:
        is_users = class_name in self._application.class_names
        return {
            "id": namespace,
            "name": class_name,
            "class": class_name,
            "script": self._application.source if is_users else "penstock",
            "use_sqlite": True,
        }

    async def list_objects(self, request: Request) -> Response:
        """A page of the objects of a namespace, in the order of their ids; with `name`, the one of that name."""
        namespace = self._namespace_of(request)
        limit = read_number(request, "limit", _LIMIT_DEFAULT, LIST_PER_PAGE_MAX, CODE_PARAMETER)
        name = request.query_params.get("name")
        cursor = request.query_params.get("cursor", "")
        if cursor and not _KEY.fullmatch(cursor):
            raise Invalid("cursor must be the one that came with the page before.", code=CODE_PARAMETER)
        if name is not None:
            keys, after = [self._key(namespace, name)], ""
        else:
            keys = await self._inspection.keys(namespace, cursor, limit)
            after = keys[-1] if len(keys) == limit else ""
        found = await self._inspection.describe(namespace, keys)
        info = {"count": len(found), "cursor": after, "cursors": {"after": after}}
        return envelope([_rendered(description) for description in found], result_info=info)

    async def get_object(self, request: Request) -> Response:
        namespace, key = self._namespace_of(request), _key_of(request)
        found = await self._inspection.describe(namespace, [key])
        if not found:
            raise _no_object(key)
        return envelope(_rendered(found[0]))

    async def query_object(self, request: Request) -> Response:
        """Rows of one SELECT. A blob is an object with its bytes in `base64`."""
        namespace, key = self._namespace_of(request), _key_of(request)
        query = _read_query(await read_body(request, self._limits))
        try:
            found = await self._inspection.query(namespace, key, query.sql, query.limit)
        except NotFound:
            raise _no_object(key) from None
        rows = [[_json_value(value) for value in row] for row in found.rows]
        return envelope({"columns": found.columns, "rows": rows, "truncated": found.truncated})

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


def _read_query(body: bytes) -> _Query:
    try:
        query = msgspec.json.decode(body, type=_Query)
    except msgspec.DecodeError as error:
        raise Invalid(f'The body must be {{"sql": "SELECT …"}}: {error}.', code=CODE_PARAMETER) from error
    if not 1 <= query.limit <= QUERY_ROWS_MAX:
        raise Invalid(f"limit must be from 1 to {QUERY_ROWS_MAX}.", code=CODE_PARAMETER)
    if len(query.sql.encode()) > QUERY_SQL_BYTES_MAX:
        raise Invalid(f"sql has more than {QUERY_SQL_BYTES_MAX} bytes.", code=CODE_PARAMETER)
    return query


def _rendered(description: Description) -> dict[str, Any]:
    rendered: dict[str, Any] = to_builtins(description)
    return rendered | {"hasStoredData": True}


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value
