"""`/openapi.json` and `/docs`: the API's own description, for programs and for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import json
from starlette.requests import Request
from starlette.responses import Response

from penstock.base.version import installed_version
from penstock.http.control import Endpoint
from penstock.http.description import Answer, Operation, plain
from penstock.http.openapi import Json, document
from penstock.http.openapi_page import page

_HTML = "text/html"
#: The page holds no script and loads nothing.
_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class ReferenceRoutes:
    """These are public: they say what any reader of the source knows."""

    def __init__(self, operations: Callable[[], Sequence[Operation]]) -> None:
        self._operations = operations
        #: Made when it is first asked for, and then the same for as long as the process lives.
        self._document: Json | None = None
        self.endpoints = [
            Endpoint(
                *("GET", "/openapi.json", "public", self.get_openapi),
                tag="Operation",
                answers=(Answer(description="An OpenAPI 3.1 document.", type={"type": "object"}, envelope="none"),),
            ),
            Endpoint(*("GET", "/docs", "public", self.get_docs), tag="Operation", answers=(plain(_HTML),)),
        ]

    async def get_openapi(self, request: Request) -> Response:
        """Get this description of the API.

        An OpenAPI 3.1 document.
        """
        return Response(json.encode(self._made()), media_type="application/json")

    async def get_docs(self, request: Request) -> Response:
        """Read this description of the API.

        The same as a page for people.
        """
        headers = {"content-security-policy": _CONTENT_POLICY}
        return Response(page(self._made(), str(request.base_url).rstrip("/")), media_type=_HTML, headers=headers)

    def _made(self) -> Json:
        if self._document is None:
            self._document = document(self._operations(), installed_version())
        return self._document
