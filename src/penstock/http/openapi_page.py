"""The reference as a page: an OpenAPI document as HTML, without scripts or anything from elsewhere. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

from msgspec import json

from penstock.http.openapi import Json
from penstock.http.openapi_style import STYLE

_CODE = re.compile(r"`([^`]+)`")
#: Bounds of a schema in words; `{}` is the bound.
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "{} or more characters",
    "maxLength": "up to {} characters",
    "minItems": "{} or more",
    "maxItems": "up to {}",
}
#: A pattern that is longer says less than the description.
_PATTERN_LENGTH_MAX = 40
#: Schemas within schemas that are shown; ours are five deep at most.
_DEPTH_MAX = 8


def page(document: Json, origin: str) -> str:
    """`origin` is the server's address, for the examples."""
    return _Page(document, origin).html()


@dataclass(slots=True)
class _Shown:
    """An operation, and the methods that do the same at its path."""

    path: str
    operation: Json
    methods: list[str] = field(default_factory=list)


class _Page:
    def __init__(self, document: Json, origin: str) -> None:
        self._document = document
        self._origin = origin

    def html(self) -> str:
        info = self._document["info"]
        groups = [(tag, list(self._operations(tag["name"]))) for tag in self._document["tags"]]
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>"
            f"<nav><a class=title href='#top'>{escape(info['title'])} <small>{escape(info['version'])}</small></a>"
            f"{''.join(self._menu(tag, operations) for tag, operations in groups)}"
            "<h2><a href='#errors'>Errors</a></h2></nav>"
            f"<main id=top><h1>The HTTP API</h1>{_prose(info['description'])}"
            f"{_prose(self._document['components']['securitySchemes']['token']['description'])}"
            "<p>For programs: <a href='openapi.json'>openapi.json</a>.</p>"
            f"{''.join(self._group(tag, operations) for tag, operations in groups)}"
            f"{self._errors()}</main></body></html>\n"
        )

    def _operations(self, tag: str) -> Iterator[_Shown]:
        """One for each path and summary: what is the same for several methods is said once."""
        for path, by_method in self._document["paths"].items():
            shown: dict[str, _Shown] = {}
            for method, operation in by_method.items():
                if tag in operation["tags"]:
                    one = shown.setdefault(operation["summary"], _Shown(path, operation))
                    one.methods.append(method.upper())
            yield from shown.values()

    def _menu(self, tag: Json, operations: Iterable[_Shown]) -> str:
        links = "".join(
            f"<a href='#{escape(shown.operation['operationId'])}'>{_method(shown.methods[0])}"
            f"<span>{escape(shown.operation['summary'])}</span></a>"
            for shown in operations
        )
        return f"<h2>{escape(tag['name'])}</h2>{links}"

    def _group(self, tag: Json, operations: Iterable[_Shown]) -> str:
        sections = "".join(map(self._operation, operations))
        return f"<h2>{escape(tag['name'])}</h2>{_prose(tag['description'])}{sections}"

    def _operation(self, shown: _Shown) -> str:
        operation = shown.operation
        example = self._curl(shown)
        server = operation["servers"][0]["url"] if "servers" in operation else ""
        return (
            f"<section id='{escape(operation['operationId'])}'><h3>{escape(operation['summary'])}</h3>"
            f"<p class=route>{' '.join(map(_method, shown.methods))}"
            f"<code>{_path(server + shown.path)}</code>{_scope(operation['security'])}</p>"
            f"{_prose(operation.get('description', ''))}"
            f"{self._parameters(operation.get('parameters', []))}"
            f"{self._body(operation.get('requestBody'))}"
            f"{self._answers(operation['responses'])}"
            f"<details><summary>With curl</summary><pre>{escape(example)}</pre></details>"
            "</section>"
        )

    # -- parts of an operation ----------------------------------------------------------------------------

    def _parameters(self, parameters: list[Json]) -> str:
        rows = [
            self._row(
                parameter["name"],
                parameter["schema"] | {"description": parameter["description"]},
                required=parameter.get("required", False),
                place=parameter["in"],
            )
            for parameter in parameters
        ]
        return f"<h4>Parameters</h4><table>{''.join(rows)}</table>" if rows else ""

    def _body(self, body: Json | None) -> str:
        if body is None:
            return ""
        return "<h4>Body</h4>" + "".join(
            self._content(media_type, content["schema"]) for media_type, content in body["content"].items()
        )

    def _answers(self, responses: Json) -> str:
        """What differs from operation to operation; errors, which do not, are links to what is said about them."""
        own, errors = [], []
        for status, response in responses.items():
            if "$ref" in response:
                name = response["$ref"].rpartition("/")[2]
                errors.append(f"<a href='#{escape(name)}'>{escape(status)}</a>")
                continue
            content = "".join(
                self._content(media_type, media["schema"])
                for media_type, media in response.get("content", {}).items()
            )
            own.append(
                f"<details><summary><b>{escape(status)}</b> {_inline(response['description'])}</summary>"
                f"{content}</details>"
            )
        links = f"<p class=errors>Errors: {' '.join(errors)}</p>" if errors else ""
        return f"<h4>Answers</h4>{''.join(own)}{links}"

    def _content(self, media_type: str, schema: Json) -> str:
        words = self._words(schema)
        return (
            f"<p class=media>{escape(media_type)}{': ' if words else ''}{words}</p>"
            f"<table>{self._fields(schema)}</table>"
        )

    def _errors(self) -> str:
        statuses = {
            response["$ref"].rpartition("/")[2]: status
            for methods in self._document["paths"].values()
            for operation in methods.values()
            for status, response in operation["responses"].items()
            if "$ref" in response
        }
        rows = []
        for name, response in sorted(
            self._document["components"]["responses"].items(), key=lambda p: statuses[p[0]]
        ):
            headers = " ".join(f"<code>{escape(header)}</code>" for header in response["headers"])
            rows.append(
                f"<tr id='{escape(name)}'><td><b>{statuses[name]}</b> {escape(name)}"
                f"<td>{_inline(response['description'])}<td>{headers}"
            )
        shapes = "".join(
            f"<h4>{escape(schema['description'])}</h4><table>{self._fields(schema)}</table>"
            for schema in map(self._document["components"]["schemas"].get, ("Error", "IngestError"))
        )
        return f"<h2 id=errors>Errors</h2>{shapes}<table class=wide>{''.join(rows)}</table>"

    # -- schemas ------------------------------------------------------------------------------------------

    def _fields(self, schema: Json, above: str = "", depth: int = 0) -> str:
        """Rows of what an object has and of what is in that, by dotted names."""
        rows = []
        for shape in self._objects(schema):
            for name, part in shape.get("properties", {}).items():
                if not part.get("readOnly"):
                    rows.append(self._row(name, part, required=name in shape.get("required", ()), above=above))
                    if depth < _DEPTH_MAX:
                        many = "[]" if "items" in self._resolved(part) else ""
                        rows.append(self._fields(part, f"{above}{name}{many}.", depth + 1))
        return "".join(rows)

    def _row(self, name: str, schema: Json, *, required: bool, place: str = "", above: str = "") -> str:
        notes = ["<b>required</b>"] if required and place != "path" else []
        notes += [f"in the {place}"] if place else []
        default = schema.get("default")
        if default is not None and not isinstance(default, (dict, list)):
            notes.append(f"default <code>{escape(_json(default))}</code>")
        return (
            f"<tr><td><code><small>{escape(above)}</small>{escape(name)}</code><td>{self._words(schema)}"
            f"{''.join(f'<i>{note}</i>' for note in notes)}"
            f"<td>{_inline(schema.get('description') or self._resolved(schema).get('description', ''))}"
        )

    def _objects(self, schema: Json) -> list[Json]:
        """The shapes with fields that a value may have."""
        schema = self._resolved(schema)
        if "properties" in schema:
            return [schema]
        if "items" in schema:
            return self._objects(schema["items"])
        return [shape for option in schema.get("anyOf", ()) for shape in self._objects(option)]

    def _words(self, schema: Json) -> str:
        """A schema in a few words: its type and its bounds."""
        schema = self._resolved(schema)
        if "const" in schema:
            return f"<code>{escape(_json(schema['const']))}</code>"
        if "enum" in schema:
            return " ".join(f"<code>{escape(_json(value))}</code>" for value in schema["enum"])
        words = [str(schema.get("type", ""))]
        if "anyOf" in schema:
            words = [" or ".join(dict.fromkeys(filter(None, map(self._words, schema["anyOf"]))))]
        elif words == ["array"]:
            of = self._words(schema.get("items", {}))
            words = [f"list of {of}" if of else "list"]
        words += [text.format(f"{schema[bound]:,}") for bound, text in _BOUNDS.items() if bound in schema]
        if "format" in schema:
            words.append(escape(schema["format"]))
        if len(schema.get("pattern", "")) in range(1, _PATTERN_LENGTH_MAX):
            words.append(f"<code>{escape(schema['pattern'])}</code>")
        return ", ".join(filter(None, words))

    def _resolved(self, schema: Json) -> Json:
        while "$ref" in schema:
            place: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                place = place[part]
            schema = place
        return schema

    # -- an example ---------------------------------------------------------------------------------------

    def _curl(self, shown: _Shown) -> str:
        method, operation = shown.methods[0], shown.operation
        origin = operation["servers"][0]["url"] if "servers" in operation else self._origin
        url = re.sub(r"\{(\w+)\}", lambda match: "$" + match[1].upper(), origin + shown.path)
        words = ["curl"] if method == "GET" else [f"curl -X {method}"]
        words.append(f'"{url}"')
        if operation["security"]:
            words.append('-H "Authorization: Bearer $TOKEN"')
        body = operation.get("requestBody")
        if body is not None:
            [schema, *_] = [content["schema"] for content in body["content"].values()]
            words.append(f"-d '{_json(self._example(schema))}'")
        return " \\\n  ".join(words)

    def _example(self, schema: Json) -> Any:
        """Only what is required, with the first example that there is."""
        given, schema = schema, self._resolved(schema)
        for known in (given, schema):
            if known.get("examples"):
                return known["examples"][0]
        if "anyOf" in schema:
            return self._example(schema["anyOf"][0])
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                return {name: self._example(schema["properties"][name]) for name in schema.get("required", ())}
            case "array":
                return [self._example(schema["items"])]
            case "integer" | "number":
                return schema.get("minimum", 1)
            case _:
                return {}


def _method(method: str) -> str:
    return f"<em class={method.lower()}>{method}</em>"


def _path(path: str) -> str:
    return re.sub(r"(\{\w+\})", r"<var>\1</var>", escape(path).replace("/", "/<wbr>"))


def _scope(security: list[Json]) -> str:
    if not security:
        return "<span class=scope>public</span>"
    [scope] = security[-1]["token"]
    may_be = "maybe " if not security[0] else ""
    return f"<span class=scope>{may_be}{escape(scope)}</span>"


def _prose(text: str) -> str:
    return f"<p>{_inline(text)}</p>" if text else ""


def _inline(text: str) -> str:
    """Text with Markdown's code spans, the only mark that descriptions use."""
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def _json(value: Any) -> str:
    return json.encode(value).decode()
