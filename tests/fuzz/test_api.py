"""Requests to every operation of the API, made at random from its own OpenAPI document, valid and not: none is a
fault of the server, and each answer is one that the document tells of.

`scripts/test tests/fuzz/test_api.py --api-cases 20000` sends that many.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup

from .stage import PIPELINES, Stage, stage

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Nothing here takes longer; whatever does is stuck. (A query may take 30 s.)
_TIMEOUT_S = 45

#: SQL that is nearly right, for those who ask with it: at random none would ever be.
_RECORDS_SQL = st.one_of(
    st.sampled_from(
        [
            'select * from "open"',
            "select n, count(*) as c from guarded group by n",
            "select 1 as a, 'x' as b, 1.5::decimal(9,2), null, [1,2], {'a': 1}, now(), 'nan'::double, 'x'::blob",
            "select * from \"open\" where event_date = '2026-11-25'",
        ]
    ),
    st.sampled_from(
        [
            "select * from nothing",
            "select * from read_csv('/etc/passwd')",
            "select 1; select 2",
            'insert into "open" values (1)',
            "select",
            "",
        ]
    ),
)
_OBJECT_SQL = st.one_of(
    st.sampled_from(
        [
            "select * from sqlite_schema",
            "select 1, x'00ff', 1.5, null, 'x'",
            "pragma table_info(kv)",
            "select 9e999",
        ]
    ),
    st.sampled_from(["select * from nothing", "delete from kv", "attach 'x' as y", "select 1; select 2", ""]),
)


class OnlyHeads(HTTPAdapter):
    """Takes the head alone of an answer that has no end."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        more["stream"] = True
        response = super().send(request, *args, **more)
        if response.headers.get("content-type") == "application/x-ndjson":
            response._content = b""
            response.close()
        return response


class Run:
    """What came of all requests."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        #: By operation and problem: how often, and the first request that showed it.
        self.problems: dict[tuple[str, str], tuple[int, str]] = {}
        self._session = requests.Session()
        self._session.mount("http://", OnlyHeads())

    def send(self, case: schemathesis.Case, who: str, aim: Mapping[str, Any], sql: str | None) -> None:
        id = case.operation.definition.raw["operationId"]
        if aim:
            self._aim(id, case, aim, sql)
        self._keep_to_loopback(case)
        headers = {}
        if who != "as generated":
            case.headers.pop("Authorization", None)
        if who in ("admin", "reader"):
            headers["Authorization"] = f"Bearer {self.stage.token if who == 'admin' else self.stage.reader}"
        if case.path == "/":
            headers["Host"] = f"{aim.get('id', '0' * 32)}.localhost"
        try:
            response = case.call(self.stage.url, session=self._session, headers=headers, timeout=_TIMEOUT_S)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            return  # nothing that could be sent
        self.statuses[id][response.status_code] += 1
        try:
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._note(id, f"{failure.title}: {response.status_code}", f"{failure}\n{group}")
        except Exception as error:
            self._note(id, repr(error)[:200], case.as_curl_command())
        self._clean(id, case, response)

    def _note(self, id: str, title: str, text: str) -> None:
        count, first = self.problems.get((id, title), (0, text))
        self.problems[id, title] = count + 1, first

    def _aim(self, id: str, case: schemathesis.Case, aim: Mapping[str, Any], sql: str | None) -> None:
        """Put something that there is in the place of some things that were made up."""
        for name in list(case.path_parameters):
            if name in aim:
                case.path_parameters[name] = aim[name]
        if id == "revoke_token":
            case.path_parameters["token"] = self.stage.make_token("pipelines:send")["id"]
        if isinstance(case.body, dict):
            if sql is not None and "sql" in case.body:
                case.body["sql"] = sql
            if id == "update_pipeline" and "name" in aim and "name" in case.body:
                case.body["name"] = aim["name"]
            if isinstance(case.body.get("transforms"), list):
                case.body["transforms"] = [{"name": "same"}]

    def _keep_to_loopback(self, case: schemathesis.Case) -> None:
        with suppress(KeyError, TypeError, AttributeError):
            credentials = case.body["destination"]["credentials"]
            if credentials["endpoint"].startswith("http"):
                credentials["endpoint"] = self.stage.s3_url

    def _clean(self, id: str, case: schemathesis.Case, response: Any) -> None:
        if response.status_code != 200:
            return
        if id == "create_pipeline":
            name = json.loads(response.content)["result"]["name"]
            if name not in PIPELINES:
                self.stage.ask("DELETE", f"/pipelines/{name}?discard=true")
        elif id == "delete_pipeline":
            self.stage.set()

    @property
    def requests(self) -> int:
        return sum(counts.total() for counts in self.statuses.values())

    @property
    def succeeded(self) -> int:
        return sum(count for counts in self.statuses.values() for status, count in counts.items() if status < 300)

    def report(self) -> str:
        lines = [f"{self.requests} requests, of which {self.succeeded} succeeded"]
        lines += [f"{id}: {dict(sorted(counts.items()))}" for id, counts in self.statuses.items()]
        for (id, title), (count, first) in self.problems.items():
            lines.append(f"\n--- {id}, {count} times: {title}\n{first}")
        lines += [str(line) for event in ("request_failed", "ingest_failed") for line in self._failed(event)]
        return "\n".join(lines)

    def _failed(self, event: str) -> list[Any]:
        return [line for line in self.stage.server.log if line.get("event") == event][:20]


def aims(stage: Stage) -> st.SearchStrategy[Mapping[str, Any]]:
    """Names and ids of what there is; empty for none of them."""
    keys = [key for found in stage.object_keys.values() for key in found]
    # What comes first is drawn most often.
    places = [*((space, key) for space, found in stage.object_keys.items() for key in found), ("Silent", keys[0])]
    there_is = st.builds(
        lambda name, id, place, class_name: {
            "account": stage.account,
            "name": name,
            "id": id,
            "class": class_name,
            "namespace": place[0],
            "object": place[1],
        },
        st.sampled_from(sorted(PIPELINES)),
        st.sampled_from(stage.pipeline_ids),
        st.sampled_from(places),
        st.sampled_from(["Open", "Open", "Shut", "Silent"]),
    )
    return st.one_of(*[there_is] * 7, st.just({"account": stage.account}), st.just({}))


def strategy(operation: Any) -> st.SearchStrategy[schemathesis.Case]:
    """Requests that keep to the document, and ones that do not."""
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not list(operation.iter_parameters()) and not operation.body:
        return valid
    invalid = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    return st.one_of(valid, valid, invalid)


def fuzz(run: Run, operation: Any, cases: int) -> None:
    sql = {"query_records": _RECORDS_SQL, "query_object": _OBJECT_SQL}.get(
        operation.definition.raw["operationId"], st.none()
    )

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        strategy(operation),
        st.sampled_from(["admin"] * 7 + ["reader", "nobody", "as generated"]),
        aims(run.stage),
        st.one_of(sql, sql, st.none()),
    )
    def send(case: schemathesis.Case, who: str, aim: Mapping[str, Any], sql: str | None) -> None:
        run.send(case, who, aim, sql)

    send()


@pytest.mark.filterwarnings("default")
def test_g3_every_answer_of_the_api_is_one_that_its_document_tells_of(tmp_path: Path, api_cases: int) -> None:
    with stage(tmp_path) as there:
        there.set()
        schema = schemathesis.openapi.from_url(f"{there.url}/openapi.json")
        schema.validate()
        operations = [found.ok() for found in schema.get_all_operations()]
        run = Run(there)
        for operation in operations:
            fuzz(run, operation, max(api_cases // len(operations), 5))
            if operation.method.upper() not in ("GET", "HEAD", "OPTIONS"):
                there.set()
        report = run.report()
        print(report)
        assert not run.problems, report
        assert run.requests > api_cases // 2 and run.succeeded > run.requests // 4, report
