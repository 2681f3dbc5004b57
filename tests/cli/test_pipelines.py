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
    assert curl in outcome.out.splitlines()[-4]
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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (
            300,
            "within 300 s of the first record, in buckets/my-bucket/raw in the server's data directory; --batch-",
        ),
        (0.25, "within 0.25 s of the first record, in buckets/my-bucket/raw in the server's data directory.\n"),
    ],
)
def test_create_says_when_and_where_the_first_file_appears(
    run: Any, server: Any, pipeline: Any, seconds: float, words: str
) -> None:
    pipeline["destination"]["batch"]["max_duration_s"] = seconds
    server.will_answer(ok(pipeline))
    assert words in run("pipelines", "create", "clicks", "--bucket", "my-bucket").out


def test_the_curl_line_gets_the_token_where_the_command_itself_got_it(
    run: Any, server: Any, pipeline: Any, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (credentials.parent.parent / "penstock").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    script = credentials.parent.parent / "penstock"
    pipeline["source"][0]["authentication"] = True
    server.will_answer(*[ok(pipeline)] * 4)
    out = run("pipelines", "create", "clicks", "--bucket", "b", "--require-http-auth").out
    assert f'-H "Authorization: Bearer $({script} token)"' in out
    assert server.requests[0].body["source"][0]["authentication"] is True
    out = run("pipelines", "get", "clicks", "--data-dir", "./data/../data").out
    assert f"$({script} token --data-dir {credentials.parent.parent}/data/../data)" in out
    out = run("pipelines", "get", "clicks", "--token", "mine").out
    assert "(PENSTOCK_TOKEN is to hold the token that you gave)" in out and "mine" not in out
    monkeypatch.setenv("PENSTOCK_TOKEN", "of-the-environment")
    assert '-H "Authorization: Bearer $PENSTOCK_TOKEN"' in run("pipelines", "get", "clicks").out


def test_the_token_is_printed_for_scripts(run: Any, monkeypatch: pytest.MonkeyPatch, credentials: Path) -> None:
    assert run("token").out == "secret-of-the-file\n"
    # It needs no more than the token itself.
    credentials.write_text('token = "alone"')
    assert run("token", "--data-dir", "data").out == "alone\n"
    monkeypatch.setenv("PENSTOCK_TOKEN", "of-the-environment")
    assert run("token").out == "of-the-environment\n"
    assert run("token", "--token", "of-the-flag").out == "of-the-flag\n"
    monkeypatch.delenv("PENSTOCK_TOKEN")
    outcome = run("token", "--data-dir", "elsewhere")
    assert (outcome.code, outcome.out) == (1, "")
    assert "no token is known: there is no elsewhere/credentials.toml" in outcome.err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--batch-max-seconds", "3600", "--batch-max-seconds must be from 0.25 to 300."),
        ("--batch-max-seconds", "nan", "--batch-max-seconds must be from 0.25 to 300."),
        ("--batch-max-mb", "101", "--batch-max-mb must be from 0.000001 to 100."),
        ("--batch-max-mb", "0", "--batch-max-mb must be from 0.000001 to 100."),
        ("--batch-max-rows", "0", "--batch-max-rows must be from 1 to 10,000,000."),
        ("--shard-count", "16", "--shard-count must be from 1 to 15."),
    ],
)
def test_a_number_out_of_its_range_is_refused_in_words_of_the_flag(
    run: Any, server: Any, flag: str, value: str, message: str
) -> None:
    for command in (("create", "clicks", "--bucket", "b"), ("update", "clicks")):
        outcome = run("pipelines", *command, flag, value)
        assert (outcome.code, outcome.err) == (2, f"error: {message}\n")
    assert server.requests == []


def test_what_the_server_says_about_a_field_is_said_about_the_flag(run: Any, server: Any, pipeline: Any) -> None:
    refusal = 400, {"errors": [{"code": 1012, "message": "destination.path.bucket must be 3 to 63 characters."}]}
    server.will_answer(refusal, ok(pipeline), refusal)
    for command in ("create", "update"):
        outcome = run("pipelines", command, "clicks", "--bucket", "B")
        assert outcome.err.splitlines()[-1] == "error: --bucket must be 3 to 63 characters. [code: 1012]"


def test_with_json_stdout_is_the_result_and_nothing_else(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok(pipeline), ok(pipeline), ok([pipeline]), ok([]), ok(pipeline), ok(pipeline), ok(None))
    assert json.loads(run("pipelines", "create", "clicks", "--bucket", "b", "--json").out) == pipeline
    assert json.loads(run("pipelines", "get", "clicks", "--json").out) == pipeline
    assert json.loads(run("pipelines", "list", "--json").out) == [pipeline]
    changed = run("pipelines", "update", "clicks", "--shard-count", "4", "--json")
    assert json.loads(changed.out) == pipeline
    assert json.loads(run("pipelines", "delete", "clicks", "--json").out) is None


def test_update_and_delete_take_an_id(run: Any, server: Any, pipeline: Any) -> None:
    unknown = 404, {"errors": [{"code": 1000, "message": "There is no pipeline named ..."}]}
    server.will_answer(unknown, ok([pipeline]), ok(pipeline), ok(pipeline), unknown, ok([pipeline]), ok(None))
    out = run("pipelines", "update", pipeline["id"], "--shard-count", "4").out
    assert out.startswith(f"✅ Updated pipeline clicks with ID {pipeline['id']}")
    assert (server.requests[-1].method, server.requests[-1].path) == ("PUT", f"{PIPELINES}/clicks")
    assert run("pipelines", "delete", pipeline["id"]).out == "✅ Deleted pipeline clicks\n"
    assert (server.requests[-1].method, server.requests[-1].path) == ("DELETE", f"{PIPELINES}/clicks")


def test_no_line_of_a_table_ends_with_blanks(run: Any, server: Any, pipeline: Any) -> None:
    server.will_answer(ok([pipeline, pipeline | {"endpoint": "short"}]), ok([]), ok(pipeline))
    for command in (("list",), ("get", "clicks")):
        lines = run("pipelines", *command).out.splitlines()
        assert lines == [line.rstrip() for line in lines]


def test_the_help_of_update_names_no_default_of_create(run: Any) -> None:
    shown = {command: run("pipelines", command, "--help").out for command in ("create", "update")}
    assert "gzip)]" in shown["create"] and "gzip)]" not in shown["update"]
    assert shown["update"].count("unchanged") == 20
    assert "NAME" in shown["update"] and "{name}" not in shown["update"]


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
    words = " ".join(re.split(r"[\s│]+", outcome.err))
    assert "nothing to change: pass at least one of --bucket, --prefix, --filepath," in words
    assert "--local," in words and "--no-transforms," in words and "--source, --shard-count" in words
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
