"""The data directory: its secrets, and that it belongs to one server at a time."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from penstock.base.errors import Invalid
from penstock.base.rng import system_rng
from penstock.server.instance import DataDir
from penstock.storage.secrets import SecretKey, encode_keys, new_secret_key

from .conftest import Serve
from .harness import Server, assert_exactly_once


def files_with(folder: Path, secret: str) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def test_g10_the_token_lies_in_one_private_file_and_is_logged_nowhere(serve: Serve) -> None:
    server = serve()
    server.send(server.create(), 1)
    credentials = server.credentials
    assert len(credentials["token"]) == 64
    server.request("GET", "/client/v4/accounts/x/pipelines", Authorization=f"Basic {credentials['token']}")
    server.request("GET", f"/{credentials['token']}"[:20])
    for name in ("credentials.toml", "instance.json"):
        assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600
    assert files_with(server.data, credentials["token"]) == ["credentials.toml"]
    instance = json.loads((server.data / "instance.json").read_text())
    assert instance["account_id"] == credentials["account_id"]
    server.stop()
    assert files_with(server.data, credentials["token"]) == ["credentials.toml"]
    assert credentials["token"] not in str(server.log)


def test_a_second_start_keeps_account_and_token_and_notes_the_new_address(serve: Serve) -> None:
    first = serve(executors=1)
    before = first.credentials
    first.create()
    first.stop()
    second = serve(executors=1)
    after = second.credentials
    assert after == before | {"url": f"http://127.0.0.1:{second.port}"}
    assert stat.S_IMODE((second.data / "credentials.toml").stat().st_mode) == 0o600
    assert second.control("GET", "/clicks").status == 200
    second.stop()
    (second.data / "credentials.toml").unlink()  # by somebody who keeps the token elsewhere
    third = serve(executors=1)
    third.wait_for("ready")
    assert not (third.data / "credentials.toml").exists()
    path = f"/client/v4/accounts/{before['account_id']}/pipelines/clicks"
    assert third.request("GET", path, Authorization=f"Bearer {before['token']}").status == 200


def refused(server: Server) -> str:
    """Why a server did not start."""
    assert server.exit_code() == 1, server.tail
    assert server.stray == []
    [line] = server.log
    assert (line["event"], line["level"]) == ("cannot_start", "error")
    return str(line["error"])


def test_a_directory_in_use_and_a_port_in_use_are_refused_and_nothing_is_disturbed(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(executors=1)
    pipeline = server.create()
    assert server.send(pipeline, 1).status == 200
    same_directory = serve()  # it waits for a predecessor's last executors before it gives up
    other = tmp_path / "other"
    assert refused(serve("--port", str(server.port), data=other)) == (
        f"Cannot listen on 127.0.0.1:{server.port} (Address already in use). Choose another port with --port."
    )
    assert not (other / "credentials.toml").exists()
    assert refused(same_directory) == (
        f"{server.data} is in use by another penstock server. Stop it, or give another --data-dir."
    )
    assert server.credentials["url"].endswith(str(server.port))
    assert server.send(pipeline, 2).status == 200
    assert_exactly_once(server.drain({1, 2}), {1, 2})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"format_version":3}', "was written in format 3; this penstock reads format 2. Use .* or a newer one"),
        ('{"format_version":1}', "was written in format 1; this penstock reads format 2. Nothing converts it"),
        ('{"format_version":2}', "is damaged"),
        ('{"account_id":"a"}', "is damaged: it has no format_version"),
        ("", "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_h3_a_directory_that_is_not_understood_is_refused_and_left_alone(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "instance.json"
    file.write_text(content)
    data_dir = DataDir(tmp_path)
    with closing(data_dir._lock), pytest.raises(Invalid, match=words):
        data_dir.open_instance("http://127.0.0.1:1", 2)
    assert file.read_text() == content
    assert not (tmp_path / "credentials.toml").exists()


def test_a_new_directory_is_for_nobody_else(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "a" / "data")
    with closing(data_dir._lock):
        assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700


def test_a_path_that_cannot_be_a_directory_is_said_so(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    server = serve(data=tmp_path / "file")
    assert refused(server) == f"--data-dir {tmp_path / 'file'} cannot be used (Not a directory)."


def test_a_directory_that_is_removed_under_the_server_ends_it(serve: Serve, tmp_path: Path) -> None:
    server = serve(data=tmp_path / "data")
    server.wait_for("ready")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert server.exit_code() == 66
    assert server.lines("giving_up", reason="the data directory is gone")
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    serve(data=tmp_path / "data").wait_for("ready")


def test_a_copy_of_the_directory_of_a_running_server_does_it_no_harm(serve: Serve, tmp_path: Path) -> None:
    server = serve(data=tmp_path / "data", executors=2)
    server.wait_for("ready")
    subprocess.run(["cp", "-a", str(tmp_path / "data"), str(tmp_path / "copy")], check=True)
    serve(data=tmp_path / "copy").wait_for("ready")
    os.kill(server.executors()[0], signal.SIGKILL)
    server.wait(lambda: len(server.lines("executor_ready")) == 3)
    pipeline = server.create()
    for number in range(20):  # on either executor
        assert server.send(pipeline, number).status == 200


def test_g10_the_secret_key_lies_in_one_private_file_and_is_logged_nowhere(serve: Serve) -> None:
    server = serve(executors=1)
    server.wait_for("ready")
    file = server.data / "secret.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = file.read_text().split()[-1]
    server.send(server.create(), 1)
    server.stop()
    assert files_with(server.data, key) == ["secret.key"]
    assert key not in str(server.log)


def test_the_secret_key_stays_the_same_and_may_lie_elsewhere(serve: Serve, tmp_path: Path) -> None:
    elsewhere = tmp_path / "key"
    first = serve("--secret-key-file", str(elsewhere), executors=1)
    first.wait_for("ready")
    first.stop()
    content = elsewhere.read_bytes()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600 and not (first.data / "secret.key").exists()
    second = serve("--secret-key-file", str(elsewhere), executors=1)
    second.wait_for("ready")
    second.stop()
    assert elsewhere.read_bytes() == content


def opened_keys(folder: Path, file: Path | None = None) -> list[SecretKey]:
    """As a start does it."""
    data_dir = DataDir(folder)
    with closing(data_dir._lock):
        instance, _ = data_dir.open_instance("http://127.0.0.1:1", 2)
        instance, keys = data_dir.open_keys(instance, file)
        data_dir.save(instance)
    return keys


def test_a_start_without_its_secret_key_is_refused_and_says_what_to_restore(tmp_path: Path) -> None:
    keys = opened_keys(tmp_path / "data")
    key_file = tmp_path / "data" / "secret.key"
    key_file.rename(tmp_path / "kept")
    with pytest.raises(Invalid, match=rf"{keys[0].id}.*secret\.key does not exist.*Restore.*--secret-key-file"):
        opened_keys(tmp_path / "data")
    assert not key_file.exists()  # a new one in its place would hide the loss
    other = opened_keys(tmp_path / "other")
    with pytest.raises(Invalid, match=rf"{keys[0].id}.*does not hold it"):
        opened_keys(tmp_path / "data", tmp_path / "other" / "secret.key")
    assert other != keys
    assert opened_keys(tmp_path / "data", tmp_path / "kept") == keys


def test_g10_a_new_key_on_top_takes_over_and_the_old_one_may_go_later(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    [old] = opened_keys(folder)
    new = new_secret_key(system_rng())
    (folder / "secret.key").write_text(encode_keys([new, old]))
    assert opened_keys(folder) == [new, old]
    (folder / "secret.key").write_text(encode_keys([new]))
    assert opened_keys(folder) == [new]


def test_a_data_directory_from_before_there_was_a_secret_key_gets_one(tmp_path: Path) -> None:
    opened_keys(tmp_path)
    file = tmp_path / "instance.json"
    instance = json.loads(file.read_text())
    del instance["secret_key_id"]
    file.write_text(json.dumps(instance))
    (tmp_path / "secret.key").unlink()
    [key] = opened_keys(tmp_path)
    assert json.loads(file.read_text())["secret_key_id"] == key.id


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\xfe"])
def test_a_damaged_secret_key_is_said_so(tmp_path: Path, content: bytes) -> None:
    opened_keys(tmp_path)
    (tmp_path / "secret.key").write_bytes(content)
    with pytest.raises(Invalid, match=r"secret\.key"):
        opened_keys(tmp_path)
