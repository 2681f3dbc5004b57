"""What is said about the routes that are plain ASGI: ingestion, and requests to objects."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from msgspec import Meta, Struct

from penstock.base.errors import (
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Overloaded,
    StorageFull,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from penstock.base.limits import IDEMPOTENCY_KEY_LENGTH_MAX, Limits
from penstock.http.content_coding import TAKEN
from penstock.http.description import JSON, Answer, Operation, path_parameters
from penstock.http.errors import MethodNotAllowed, UnsupportedEncoding
from penstock.http.parameters import IN_PATHS, Parameter

_OBJECTS = "/objects/{class}/{object_name}/{rest}"
_OBJECT_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


class Committed(Struct, frozen=True):
    committed: Annotated[int, Meta(description="Records that are stored, durably.", ge=1)]


_RECORD = {"type": "object", "examples": [{"event": "page_view", "user": "u1"}]}
_RECORDS: dict[str, Any] = {
    JSON: {"anyOf": [{"type": "array", "minItems": 1, "items": _RECORD}, _RECORD]},
    "application/x-ndjson": {"type": "string", "minLength": 2, "examples": ['{"n":1}\n{"n":2}\n']},
}


def _header(name: str, description: str, **schema: Any) -> Parameter:
    return Parameter(name, description, {"type": "string", **schema}, "header")


_CODING = _header("Content-Encoding", f"How the body is encoded, once: {TAKEN}.", examples=["gzip"])
_KEY = _header(
    "Idempotency-Key",
    "A request with a key is stored once within 24 hours, however often it comes.",
    pattern=f"^[ -~]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}$",
)
_ORIGIN = _header("Origin", "Of a web page, set by browsers.", examples=["https://example.com"])
_ASKED_METHOD = _header("Access-Control-Request-Method", "Makes it a preflight; set by browsers.")

_BY_HOST = {
    "url": "http://{id}.localhost:{port}",
    "variables": {
        "id": {"default": "0" * 32, "description": IN_PATHS["id"].description},
        "port": {"default": "8787"},
    },
}


def ingest_operations(limits: Limits) -> list[Operation]:
    text = f"""\
The body is at most {limits.body_bytes_max:,} bytes of JSON in UTF-8: an array of objects, one object, or one
object on each line (NDJSON). What it begins with tells which, not its content type. All records of a request are
stored, or none. 200 means that they are durable. A token is needed if the pipeline's settings say so."""
    send = Operation(
        id="send_records",
        tag="Ingest",
        method="POST",
        path="/ingest/{id}",
        policy="pipelines:send",
        token_optional=True,
        summary="Send records",
        text=text,
        parameters=[*path_parameters("{id}"), _CODING, _KEY, _ORIGIN],
        body=_RECORDS,
        answers=[Answer(description="Stored.", type=Committed, envelope="ingest")],
        errors=frozenset(
            {
                *(Invalid, Unauthenticated, Forbidden, NotFound, TooLarge, UnsupportedEncoding, Unprocessable),
                *(Overloaded, Internal, Unavailable, StorageFull),
            }
        ),
        error_envelope="ingest",
    )
    ask = Operation(
        id="ask_to_send_records",
        tag="Ingest",
        method="OPTIONS",
        path="/ingest/{id}",
        policy="public",
        summary="Ask whether a web page may send records",
        text="A preflight of the CORS protocol. 403: the pipeline's `cors.origins` do not name the page's origin.",
        parameters=[*path_parameters("{id}"), _ORIGIN, _ASKED_METHOD],
        answers=[Answer(status=204, description="It may.", envelope="none")],
        errors=frozenset({Forbidden, NotFound, MethodNotAllowed, Internal, Unavailable}),
        error_envelope="ingest",
    )
    return [
        send,
        ask,
        dataclasses.replace(
            send,
            id="send_records_by_host",
            path="/",
            server=_BY_HOST,
            summary="Send records to a pipeline's host",
            parameters=send.parameters[1:],
        ),
        dataclasses.replace(
            ask,
            id="ask_to_send_records_by_host",
            path="/",
            server=_BY_HOST,
            summary="Ask whether a web page may send records to a pipeline's host",
            parameters=ask.parameters[1:],
        ),
    ]


def object_operations() -> list[Operation]:
    one = Operation(
        id="fetch_object",
        tag="Durable objects",
        method="GET",
        path=_OBJECTS,
        policy="admin",
        token_optional=True,
        summary="Send a request to an object",
        text="Its `fetch` answers. A token is needed unless the class is public. What comes from the server itself "
        "has the shape of the ingest endpoint's errors.",
        parameters=path_parameters(_OBJECTS),
        answers=[
            Answer(
                status=None,
                description="What the object's `fetch` answers: any status from 200 to 599, any content or none.",
                envelope="none",
            )
        ],
        errors=frozenset(
            {
                *(
                    Invalid,
                    Unauthenticated,
                    Forbidden,
                    NotFound,
                    TooLarge,
                    Overloaded,
                    Internal,
                    Unavailable,
                    StorageFull,
                )
            }
        ),
        error_envelope="fetch",
    )
    made = []
    for method in _OBJECT_METHODS:
        has_body = method in ("POST", "PUT", "PATCH")
        made.append(
            dataclasses.replace(
                one,
                id=f"fetch_object_{method.lower()}",
                method=method,
                body={"*/*": {}} if has_body else None,
                body_required=False,
            )
        )
    return made
