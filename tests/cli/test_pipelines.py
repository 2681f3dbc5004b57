from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = "0" * 31 + "a"
PIPELINES = f"/client/v4/accounts/{ACCOUNT}/pipelines"
LONG = "n" * 128


@pytest.fixture(autouse=True)
def credentials(server: Any, write_credentials: Callable[..., Path]) -> Path:
    return write_credentials(server.url)


def ok(result: Any) -> tuple[int, Any]:
    return 200, {"success": True, "errors": [], "messages": [], "result": result}


def test_create_says_what_it_did_and_how_to_send(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline))
    outcome = run("pipelines", "create", "clicks", "--bucket", "my-bucket", "--batch-max-seconds", "10")
    assert outcome.code == 0
    assert '🌀 Creating pipeline named "clicks"' in outcome.err
    assert f"✅ Created pipeline clicks with ID {pipeline['id']}" in outcome.out
    curl = f"""curl {pipeline["endpoint"]} -d '[{{"event":"page_view","user":"u1"}}]'"""
    assert curl in outcome.out.splitlines()[-2]
    [request] = server.requests
    assert (request.method, request.path, request.token) == ("POST", PIPELINES, "secret-of-the-file")
    assert request.body["destination"]["batch"]["max_duration_s"] == 10
    assert "shards" not in request.body["metadata"]


def test_create_shows_the_settings_as_a_table(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline))
    lines = run("pipelines", "create", "clicks", "--bucket", "my-bucket").out.splitlines()
    shown = dict(re.split("  +", line.strip()) for line in lines if re.match("  [A-Z]", line))
    assert shown["Sources"] == "http, binding"
    assert shown["Authentication"] == "off"
    assert shown["Destination"] == "my-bucket/raw"
    assert shown["Compression"] == "gzip"
    assert shown["Batch hints"] == "100 MB, 300 s, 10,000,000 records, whichever comes first"


def test_wranglers_names_for_bucket_and_prefix_work_too(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline))
    run("pipelines", "create", "clicks", "--r2-bucket", "b", "--r2-prefix", "p")
    assert server.requests[0].body["destination"]["path"] == {"bucket": "b", "prefix": "p"}


def test_the_curl_line_carries_the_token_variable_when_the_endpoint_wants_one(
    run: Any, server: Any, pipeline: Any
) -> None:
    pipeline["source"][0]["authentication"] = True
    server.will_answer(ok(pipeline))
    out = run("pipelines", "create", "clicks", "--bucket", "b", "--require-http-auth").out
    assert '-H "Authorization: Bearer $PENSTOCK_TOKEN"' in out
    assert server.requests[0].body["source"][0]["authentication"] is True


def test_with_json_stdout_is_the_result_and_nothing_else(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline), ok(pipeline), ok([pipeline]), ok([]), ok(pipeline), ok(pipeline), ok(None))
    assert json.loads(run("pipelines", "create", "clicks", "--bucket", "b", "--json").out) == pipeline
    assert json.loads(run("pipelines", "get", "clicks", "--json").out) == pipeline
    assert json.loads(run("pipelines", "list", "--json").out) == [pipeline]
    changed = run("pipelines", "update", "clicks", "--shard-count", "4", "--json")
    assert json.loads(changed.out) == pipeline
    assert json.loads(run("pipelines", "delete", "clicks", "--json").out) is None


def test_ids_and_urls_are_never_wrapped_or_cut(run: Any, server: Any, pipeline: Any) -> None:
    pipeline["name"] = LONG
    server.will_answer(ok([pipeline]), ok([]), ok(pipeline))
    [heading, row] = run("pipelines", "list").out.splitlines()
    assert heading.split() == ["NAME", "ID", "ENDPOINT"]
    assert row.split() == [LONG, pipeline["id"], pipeline["endpoint"]]
    assert any(line.split() == ["Name", LONG] for line in run("pipelines", "get", LONG).out.splitlines())


def test_no_colour_goes_to_a_pipe(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline))
    assert "\x1b" not in run("pipelines", "get", "clicks").out


def test_an_empty_list_leaves_stdout_empty(run: Any, server: Any) -> None:
    server.will_answer(ok([]))
    outcome = run("pipelines", "list")
    assert (outcome.code, outcome.out) == (0, "")
    assert "no pipeline yet" in outcome.err


def test_update_sends_back_the_whole_pipeline_with_only_the_flags_changed(
    run: Any, server: Any, pipeline: Any
) -> None:
    server.will_answer(ok(pipeline), ok(pipeline))
    outcome = run("pipelines", "update", "clicks", "--compression", "none", "--require-http-auth")
    assert outcome.code == 0
    read, write = server.requests
    assert (read.method, write.method) == ("GET", "PUT")
    assert read.path == write.path == f"{PIPELINES}/clicks"
    pipeline["destination"]["compression"] = {"type": "none"}
    pipeline["source"][0]["authentication"] = True
    assert write.body == pipeline


def test_an_update_of_nothing_is_a_mistake_and_no_request(run: Any, server: Any) -> None:
    outcome = run("pipelines", "update", "clicks")
    assert outcome.code == 2
    assert "nothing to change" in outcome.err
    assert server.requests == []


def test_delete_deletes(run: Any, server: Any) -> None:
    server.will_answer(ok(None))
    assert run("pipelines", "delete", "clicks").out == "✅ Deleted pipeline clicks\n"
    assert [(request.method, request.path) for request in server.requests] == [("DELETE", f"{PIPELINES}/clicks")]


def test_an_error_is_one_line_on_stderr_and_exit_code_1(run: Any, server: Any) -> None:
    server.will_answer((409, {"success": False, "errors": [{"code": 1003, "message": "It exists"}]}))
    outcome = run("pipelines", "create", "clicks", "--bucket", "b")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == "error: It exists [code: 1003]"


def test_flags_come_before_environment_before_file_on_the_wire(
    run: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.will_answer(*[ok([])] * 3)
    run("pipelines", "list")
    monkeypatch.setenv("PENSTOCK_TOKEN", "of-the-environment")
    run("pipelines", "list")
    run("pipelines", "list", "--token", "of-the-flag", "--account-id", "other")
    assert [request.token for request in server.requests] == [
        "secret-of-the-file",
        "of-the-environment",
        "of-the-flag",
    ]
    assert server.requests[2].path.startswith("/client/v4/accounts/other/")


def test_the_data_dir_may_come_from_the_environment(
    run: Any, server: Any, write_credentials: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_credentials(server.url, folder="elsewhere", token="of-elsewhere")
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(path.parent))
    server.will_answer(ok([]))
    run("pipelines", "list")
    assert server.requests[0].token == "of-elsewhere"
