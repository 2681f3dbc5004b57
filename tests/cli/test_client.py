from __future__ import annotations

import socket
from typing import Any

import pytest

from penstock.cli.client import Client
from penstock.cli.errors import ApiError, CliError
from penstock.cli.target import Setting, Target


def client_of(url: str, **settings: Any) -> Client:
    return Client(
        Target(
            url=Setting(url, "PENSTOCK_URL"),
            account_id=Setting("acc", "--account-id"),
            token=Setting("t", "data/credentials.toml"),
        ),
        **settings,
    )


@pytest.fixture
def client(server: Any) -> Client:
    return client_of(server.url)


def test_a_refused_connection_asks_whether_the_server_runs_and_says_what_was_tried() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(CliError) as error:
            client_of(url).get_pipeline("clicks")
    message = f"nothing answers: is `penstock serve` running? Tried {url} (from PENSTOCK_URL)"
    assert str(error.value) == message


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CliError, match=r"no answer from .* within 0\.05 s"):
            client_of(url, timeout_seconds=0.05).get_pipeline("clicks")


def test_an_error_of_the_api_is_shown_in_its_words_with_its_code(client: Client, server: Any) -> None:
    server.will_answer((404, {"success": False, "errors": [{"code": 7003, "message": "No such route"}]}))
    with pytest.raises(ApiError) as error:
        client.get_pipeline("clicks")
    assert (str(error.value), error.value.status) == ("No such route [code: 7003]", 404)


def test_an_error_of_ingestion_is_shown_too(client: Client, server: Any) -> None:
    server.will_answer((400, {"success": False, "error": {"code": 1002, "message": "Not an array"}}))
    with pytest.raises(ApiError, match=r"^Not an array \[code: 1002\]$"):
        client.ingest("id", b"{}")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_said_to_come_from_where_it_came(client: Client, server: Any, status: int) -> None:
    errors = [{"code": 10000, "message": "Authentication error"}]
    server.will_answer((status, {"success": False, "errors": errors}))
    with pytest.raises(ApiError) as error:
        client.get_pipeline("clicks")
    assert str(error.value).endswith(
        "refused the token from data/credentials.toml: Authentication error [code: 10000]"
    )


@pytest.mark.parametrize(("status", "content"), [(200, b"<html>"), (502, b""), (500, b"[]"), (204, b"null")])
def test_what_is_not_the_api_is_not_taken_for_it(client: Client, server: Any, status: int, content: bytes) -> None:
    server.will_answer((status, content))
    with pytest.raises(CliError):
        client.get_pipeline("clicks")


def test_a_redirect_is_not_followed_since_it_would_carry_the_token_away(client: Client, server: Any) -> None:
    server.will_answer((302, b""))
    with pytest.raises(ApiError, match="status 302"):
        client.get_pipeline("clicks")
    assert len(server.requests) == 1


def test_loopback_is_never_reached_through_a_proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server.will_answer((200, {"success": True, "result": {"committed": 1}}))
    assert client_of(server.url).ingest("id", b"[{}]") == 1


def test_a_list_is_read_to_its_empty_page(client: Client, server: Any) -> None:
    pages = [[{"name": "a"}, {"name": "b"}], [{"name": "c"}], []]
    server.will_answer(*((200, {"success": True, "result": page}) for page in pages))
    assert [pipeline["name"] for pipeline in client.list_pipelines("x y")] == ["a", "b", "c"]
    assert [request.path.partition("?")[2] for request in server.requests] == [
        f"page={page}&per_page=100&search=x+y" for page in (1, 2, 3)
    ]


def test_a_list_is_one_request_when_the_server_says_that_this_was_all(client: Client, server: Any) -> None:
    result = [{"name": "a"}, {"name": "b"}]
    server.will_answer((200, {"success": True, "result": result, "result_info": {"total_count": 2}}))
    assert list(client.list_pipelines()) == result
    assert len(server.requests) == 1


UNKNOWN = 404, {"success": False, "errors": [{"code": 1000, "message": "There is no pipeline named ..."}]}
ID = "0e00c5ff" * 4


def list_of(*pipelines: Any) -> Any:
    return 200, {"success": True, "result": pipelines, "result_info": {"total_count": len(pipelines)}}


def test_a_pipeline_is_found_by_its_id_where_none_has_that_name(client: Client, server: Any) -> None:
    wanted = {"name": "clicks", "id": ID}
    answer = wanted | {"status": "running"}
    server.will_answer(
        UNKNOWN,
        list_of({"name": "a", "id": "0" * 32}, wanted),
        (200, {"success": True, "result": answer}),
    )
    assert client.get_pipeline(ID) == answer


def test_a_pipeline_is_deleted_by_its_id_too(client: Client, server: Any) -> None:
    server.will_answer(UNKNOWN, list_of({"name": "clicks", "id": ID}), (200, {"success": True, "result": None}))
    assert client.delete_pipeline(ID) == ("clicks", None)
    assert server.requests[2].path.endswith("/pipelines/clicks")


@pytest.mark.parametrize("name", ["clicks", ID])
def test_what_is_neither_a_name_nor_an_id_is_said_so_and_where_to_look(
    client: Client, server: Any, name: str
) -> None:
    server.will_answer(UNKNOWN, list_of({"name": "a", "id": "0" * 32}))
    with pytest.raises(ApiError) as error:
        client.get_pipeline(name)
    assert str(error.value) == (
        f"there is no pipeline with the name or id {name!r}; `penstock pipelines list` shows all [code: 1000]"
    )


def test_names_are_escaped_in_paths(client: Client, server: Any) -> None:
    client.delete_pipeline("../a b")
    assert server.requests[0].path == "/client/v4/accounts/acc/pipelines/..%2Fa%20b"
