"""The document at `/openapi.json` and the page at `/docs`: of all routes, from the definitions that serve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from starlette.routing import Route

from penstock.base import limits
from penstock.base.limits import Limits
from penstock.http.errors import STATUS
from penstock.pipelines.settings_body import _MUST_BE
from penstock.tokens.grants import SCOPES

from .conftest import MakeFace
from .harness import ACCOUNT, Face, pipeline_body

_DOCS = Path(__file__).parents[2] / "docs/reference"
Json = dict[str, Any]


@pytest.fixture
def document(face: Face) -> Json:
    found: Json = face.get("/openapi.json").json
    return found


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(document: Json, schema: Json) -> Json:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def fields(document: Json, schema: Json, above: str = "") -> Iterator[tuple[str, Json, bool]]:
    """The dotted names of what an object has, with their schemas and whether they are required."""
    schema = resolved(document, schema)
    for option in schema.get("anyOf", ()):
        yield from fields(document, option, above)
    if "items" in schema:
        yield from fields(document, schema["items"], above)
    for name, part in schema.get("properties", {}).items():
        yield f"{above}{name}", part, name in schema.get("required", ())
        yield from fields(document, part, f"{above}{name}.")


# -- the document -----------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_3_1_and_anybody_may_read_it(face: Face) -> None:
    answer = face.get("/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(answer.json).validate()


def test_every_route_that_is_served_is_in_the_document_and_nothing_else(face: Face, document: Json) -> None:
    control = {
        (method, route.path)
        for route in face.node.app.control.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    ingest = {(method, path) for method in ("POST", "OPTIONS") for path in ("/ingest/{id}", "/")}
    objects = {
        (method, "/objects/{class}/{object_name}/{rest}")
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
    }
    assert {(method, path) for method, path, _ in operations(document)} == control | ingest | objects


def test_every_route_of_the_reference_for_people_is_in_the_document_with_its_scope(document: Json) -> None:
    described = {}
    for line in (_DOCS / "http-api.md").read_text().splitlines():
        row = re.fullmatch(r"\| (?:any method )?`(?:([A-Z]+) )?(\S+)`(?: with .*?)? \| (.*?) \| .* \|", line)
        if row is not None and row[2].startswith(("/", "…")):
            path = re.sub(
                r"<\w+>", "{}", row[2].replace("…/name", "/client/v4/accounts/{}/workers/durable_objects/name")
            )
            described[row[1], path] = row[3]
    assert len(described) > 20
    known = {(method, re.sub(r"\{\w+\}", "{}", path)): one for method, path, one in operations(document)}
    for (method, path), words in described.items():
        if path.startswith("/objects"):
            continue
        security = known[method, path]["security"]
        scopes = [scope for needed in security for scope in needed.get("token", ())]
        assert scopes == re.findall(r"`([a-z:]+)`", words) or words == "likewise", (method, path, words)
        assert bool(security) or words == "no", (method, path)
    assert {path for method, path in known} - {path for _, path in described} <= {"/objects/{}/{}/{}"}


def test_every_operation_has_a_name_of_its_own_a_summary_and_its_scope(face: Face, document: Json) -> None:
    found = [operation for _, _, operation in operations(document)]
    names = [operation["operationId"] for operation in found]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in document["tags"]}
    for operation in found:
        assert 5 < len(operation["summary"]) <= 60 and not operation["summary"].endswith(".")
        assert set(operation["tags"]) <= tags
        for needed in operation["security"]:
            assert set(needed.get("token", ())) <= set(SCOPES)
    policies = {endpoint.operation.id: endpoint.policy for endpoint in face.node.app.control.endpoints}
    for operation in found:
        if (policy := policies.get(operation["operationId"], "public")) != "public":
            assert operation["security"] == [{"token": [policy]}]


def test_a_type_or_an_error_is_described_once(document: Json) -> None:
    schemas = document["components"]["schemas"]
    # Two types of one name would get their modules' names.
    assert not [name for name in schemas if "." in name]
    text = str(document)
    for kind in ("schemas", "responses", "headers"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in text, name


def test_each_setting_of_a_pipeline_is_described_where_it_is_defined(document: Json) -> None:
    found = {
        name: (schema, required)
        for name, schema, required in fields(document, {"$ref": "#/components/schemas/PipelineBody"})
    }
    objects = {"destination", "metadata", "destination.path", "destination.batch", "destination.compression"}
    settings = {name: one for name, one in found.items() if not one[0].get("readOnly") and name not in objects}
    assert set(_MUST_BE) - {""} <= set(found)
    for name, (schema, required) in settings.items():
        assert schema.get("description") or "enum" in schema, name
        assert "default" in schema or required or name.endswith((".cors", ".credentials", "source.type")), name
    for field, bounds, default in (
        ("max_bytes", limits.BATCH_BYTES_MAX_RANGE, limits.BATCH_BYTES_MAX_DEFAULT),
        ("max_duration_s", limits.BATCH_SECONDS_MAX_RANGE, limits.BATCH_SECONDS_MAX_DEFAULT),
        ("max_rows", limits.BATCH_RECORDS_MAX_RANGE, limits.BATCH_RECORDS_MAX_DEFAULT),
    ):
        schema, _ = settings[f"destination.batch.{field}"]
        assert ((schema["minimum"], schema["maximum"]), schema["default"]) == (bounds, default)
    secrets = {name for name, (schema, _) in found.items() if schema.get("writeOnly")}
    assert secrets == {"destination.credentials.access_key_id", "destination.credentials.secret_access_key"}


def test_parameters_tell_the_range_that_is_held(face: Face, document: Json) -> None:
    path = "/client/v4/accounts/{account}/pipelines"
    parameters = {parameter["name"]: parameter for parameter in document["paths"][path]["get"]["parameters"]}
    schema = parameters["per_page"]["schema"]
    assert schema == {"type": "integer", "minimum": 1, "maximum": limits.LIST_PER_PAGE_MAX, "default": 20}
    pipelines = path.replace("{account}", ACCOUNT)
    assert face.control("GET", f"{pipelines}?per_page={schema['maximum']}").status == 200
    for outside in (schema["minimum"] - 1, schema["maximum"] + 1):
        status, _, message = face.control("GET", f"{pipelines}?per_page={outside}").control_error
        assert status == 400 and f"from 1 to {schema['maximum']}" in message


def test_every_error_has_the_status_of_its_kind(document: Json) -> None:
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if "$ref" in answer:
                assert int(status) in {*STATUS.values(), 405, 415}, (method, path)
                assert resolved(document, answer)["description"]


def test_a_method_that_the_document_does_not_have_for_a_path_is_refused(face: Face, document: Json) -> None:
    pipeline = face.create()
    values = {"account": ACCOUNT, "name": "clicks", "id": pipeline}
    for path, methods in document["paths"].items():
        if path.startswith("/objects") or path == "/":
            continue
        target = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], "x"), path)
        known = {method.upper() for method in methods}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - known:
            answer = face.control(method, target)
            assert answer.status == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == known - {"OPTIONS"}


def test_the_document_says_nothing_of_a_tenant(make_face: MakeFace) -> None:
    face = make_face(Limits(body_bytes_max=1_234_567))
    face.control("POST", f"/client/v4/accounts/{ACCOUNT}/pipelines", pipeline_body("a-secret-name"))
    for path in ("/openapi.json", "/docs"):
        text = face.get(path).body.decode()
        assert "a-secret-name" not in text and ACCOUNT not in text
        assert "1,234,567 bytes" in text


# -- the page ---------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Notes ids, links and what would be fetched, and that every element that must be closed is."""

    CLOSED_BY_THE_NEXT = frozenset({"tr", "td", "meta", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        found = dict(attrs)
        assert not found.keys() & {"src", "srcset", "onclick", "onload", "action"}
        if id := found.get("id"):
            self.ids.append(id)
        if link := found.get("href"):
            self.links.append(link)
        if tag not in self.CLOSED_BY_THE_NEXT:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_the_page_shows_every_operation_and_loads_nothing(face: Face, document: Json) -> None:
    answer = face.get("/docs")
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    text = answer.body.decode()
    reader = Reader(text)
    assert not reader.names & {"script", "link", "img", "iframe", "object", "base"}
    assert not re.search(r"@import|url\(", text)
    assert {link for link in reader.links if not link.startswith("#")} == {"openapi.json"}
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    for _, path, operation in operations(document):
        assert operation["summary"] in text.replace("&#x27;", "'")
        assert re.sub(r"(\{\w+\})", r"<var>\1</var>", path).replace("/", "/<wbr>").replace("</<wbr>", "</") in text
    for setting in ("max_duration_s", "filepath", "secret_access_key"):
        assert setting in text
    assert len(text) < 200_000


def test_the_page_has_an_example_for_the_address_by_which_it_was_reached(face: Face) -> None:
    text = face.get("/docs", {"host": "penstock.example:8787"}).body.decode()
    assert "curl -X POST \\\n  &quot;http://penstock.example:8787/ingest/$ID&quot;" in text
    evil = face.get("/docs", {"host": "<script>alert(1)</script>"})
    assert b"<script>" not in evil.body
