"""The OpenAPI 3.1 document of the API, made from what is said beside the routes (`description.py`). Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.base.errors import PenstockError
from penstock.http.description import JSON, TAGS, Answer, Envelope, Operation, Policy
from penstock.http.errors import status_of_kind
from penstock.http.parameters import Parameter

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_ABOUT = """\
Durable event ingestion over HTTP. Every answer has an `x-request-id` header; the same id is in the server's log
lines about the request. The content type of a request does not matter. A method that a path does not take gets 405,
a path that leads nowhere 404, both in the v4 envelope; what is not HTTP at all gets 400 with a line of text."""

#: What an answer with this status has beside `x-request-id`.
_HEADERS_BY_STATUS = {
    401: ["www-authenticate"],
    405: ["allow"],
    409: ["x-should-retry"],
    413: ["connection"],
    415: ["accept-encoding"],
    429: ["retry-after"],
    503: ["retry-after"],
    507: ["retry-after"],
}
_HEADERS: dict[str, Json] = {
    "x-request-id": {"description": "Names the request in the server's log.", "schema": {"type": "string"}},
    "www-authenticate": {"description": "How to authenticate: `Bearer`.", "schema": {"type": "string"}},
    "allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}},
    "x-should-retry": {"description": "`false`: the same again changes nothing.", "schema": {"type": "string"}},
    "connection": {"description": "`close` if the body was not read to its end.", "schema": {"type": "string"}},
    "accept-encoding": {"description": "The codings that are taken.", "schema": {"type": "string"}},
    "retry-after": {
        "description": "Wait so many seconds before trying again; not always known.",
        "schema": {"type": "integer", "minimum": 0},
    },
}

_FAILED: Json = {"type": "boolean", "const": False}
_DONE: Json = {"type": "boolean", "const": True}
_NONE: Json = {"type": "array", "maxItems": 0}
#: Of what is in any document, whatever the routes are.
_COMMON_SCHEMAS: dict[str, Json] = {
    "ErrorDetail": {
        "description": "`code` is the number that Cloudflare's clients know for the situation, 0 where there is "
        "none; `message` says what to do.",
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
    },
    "Error": {
        "description": "An error in Cloudflare's v4 envelope.",
        "type": "object",
        "required": ["success", "errors", "messages", "result"],
        "properties": {
            "success": _FAILED,
            "errors": {"type": "array", "minItems": 1, "items": {"$ref": _SCHEMAS + "ErrorDetail"}},
            "messages": _NONE,
            "result": {"type": "null"},
        },
    },
    "IngestError": {
        "description": "An error in the shape of the ingest endpoint.",
        "type": "object",
        "required": ["success", "error"],
        "properties": {"success": _FAILED, "error": {"$ref": _SCHEMAS + "ErrorDetail"}},
    },
}


def document(operations: Sequence[Operation], version: str) -> Json:
    """The whole document, ready for JSON."""
    types = list(_types(operations))
    found, components = msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")
    assert not components.keys() & _COMMON_SCHEMAS.keys(), "a type is called as one of the document's own schemas"
    schemas = _Schemas([(type_, _clean(schema)) for type_, schema in zip(types, found, strict=True)])
    used = {operation.tag for operation in operations}
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token is sent as `Authorization: Bearer <token>`. `penstock token` on the "
                    "server's machine prints one that may do everything; others have scopes, of which "
                    "each operation names the one that it needs.",
                }
            },
            "schemas": {**_COMMON_SCHEMAS, **{name: _clean(schema) for name, schema in sorted(components.items())}},
            "headers": _HEADERS,
            "responses": _error_responses(operations),
        },
    }


class _Schemas:
    """JSON Schema by type. (Types like `list[T]` cannot all be keys of a mapping.)"""

    def __init__(self, known: Sequence[tuple[Any, Json]]) -> None:
        self._known = known

    def of(self, type_: Any) -> Json:
        if isinstance(type_, Mapping):
            return dict(type_)
        return next(schema for known, schema in self._known if known == type_)


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    for operation in operations:
        of_answers = [type_ for answer in operation.answers for type_ in (answer.type, answer.info)]
        for type_ in [*(operation.body or {}).values(), *of_answers]:
            if type_ is not None and not isinstance(type_, Mapping):
                yield type_


def _clean(value: Any) -> Any:
    """Without what msgspec adds that says nothing: a title that repeats the name, the indents of a docstring."""
    if isinstance(value, dict):
        return {
            key: " ".join(part.split()) if key == "description" and isinstance(part, str) else _clean(part)
            for key, part in value.items()
            if key != "title" or not isinstance(part, str)
        }
    if isinstance(value, list):
        return [_clean(part) for part in value]
    return value


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    described: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _security(operation.policy, optional=operation.token_optional),
    }
    if operation.text:
        described["description"] = operation.text
    if operation.server is not None:
        described["servers"] = [dict(operation.server)]
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        content = {media_type: {"schema": schemas.of(type_)} for media_type, type_ in operation.body.items()}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    answers = {
        "default" if answer.status is None else str(answer.status): _answer(answer, schemas)
        for answer in operation.answers
    }
    errors: dict[str, Json] = {}
    for kind in sorted(operation.errors, key=status_of_kind):
        status = str(status_of_kind(kind))
        assert status not in errors, f"{operation.id} names two kinds of errors with the status {status}"
        if status not in answers:
            name = _response_name(kind, operation.error_envelope)
            errors[status] = {"$ref": f"#/components/responses/{name}"}
    default = answers.pop("default", None)
    described["responses"] = {**answers, **errors, **({"default": default} if default is not None else {})}
    return described


def _security(policy: Policy, *, optional: bool) -> list[Json]:
    """OpenAPI 3.1: the names of an HTTP scheme's requirement are roles that are needed."""
    if policy == "public":
        return []
    needed: list[Json] = [{"token": [policy]}]
    return [{}, *needed] if optional else needed


def _parameter(parameter: Parameter) -> Json:
    described: Json = {"name": parameter.name, "in": parameter.place, "description": parameter.description}
    if parameter.required:
        described["required"] = True
    return described | {"schema": dict(parameter.schema)}


def _answer(answer: Answer, schemas: _Schemas) -> Json:
    described: Json = {"description": answer.description, "headers": _headers(answer.status)}
    if answer.envelope == "none":
        if answer.status not in (None, 204):
            schema = {"type": "string"} if answer.type is None else schemas.of(answer.type)
            described["content"] = {answer.media_type: {"schema": schema}}
        return described
    result = {"type": "null"} if answer.type is None else schemas.of(answer.type)
    if answer.envelope == "ingest":
        properties = {"success": _DONE, "result": result}
    else:
        properties = {"success": _DONE, "errors": _NONE, "messages": _NONE, "result": result}
    if answer.info is not None:
        properties["result_info"] = schemas.of(answer.info)
    schema = {"type": "object", "required": list(properties), "properties": properties}
    described["content"] = {answer.media_type: {"schema": schema}}
    return described


def _error_responses(operations: Iterable[Operation]) -> dict[str, Json]:
    used = {(kind, operation.error_envelope) for operation in operations for kind in operation.errors}
    responses = {_response_name(kind, envelope): _error_response(kind, envelope) for kind, envelope in used}
    return dict(sorted(responses.items()))


def _response_name(kind: type[PenstockError], envelope: Envelope) -> str:
    return {"v4": "", "ingest": "Ingest", "fetch": "Fetch"}[envelope] + kind.__name__


def _error_response(kind: type[PenstockError], envelope: Envelope) -> Json:
    status = status_of_kind(kind)
    text = " ".join((inspect.getdoc(kind) or kind.kind).split())
    content: Json
    if envelope == "fetch":
        text += " Or what the object's `fetch` answers."
        content = {JSON: {"schema": {"anyOf": [{"$ref": _SCHEMAS + "IngestError"}, {}]}}, "*/*": {"schema": {}}}
    else:
        content = {JSON: {"schema": {"$ref": _SCHEMAS + ("Error" if envelope == "v4" else "IngestError")}}}
    return {"description": text, "headers": _headers(status), "content": content}


def _headers(status: int | None) -> Json:
    names = ["x-request-id", *_HEADERS_BY_STATUS.get(status or 0, [])]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
