"""The port: one server's alone, and refused in words that say what to change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from penstock.base.errors import Conflict, Invalid
from penstock.server import listen
from penstock.server.listen import Port


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_RELEASE_WAIT_S", 0)


@pytest.fixture
def free() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = int(taken.getsockname()[1])
    yield number


def close(port: Port) -> None:
    port._held.close()
    if port._claim:
        port._claim.close()


def test_two_servers_that_start_together_never_share_a_port(free: int) -> None:
    first = Port("127.0.0.1", free)
    with pytest.raises(
        Conflict, match=rf"Cannot listen on 127\.0\.0\.1:{free} \(Address already in use\)\. .*--port"
    ):
        Port("127.0.0.1", free)
    close(first)
    close(Port("127.0.0.1", free))


def test_a_port_with_a_listener_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=listen.REUSE_PORT) as taken,
        pytest.raises(Conflict, match=r"Address already in use.*Choose another port with --port\.$"),
    ):
        Port("127.0.0.1", taken.getsockname()[1])


def test_port_0_is_another_one_each_time() -> None:
    ports = [Port("127.0.0.1", 0) for _ in range(3)]
    assert len({port.url for port in ports}) == 3
    for port in ports:
        close(port)


def test_an_address_of_another_machine_is_refused_naming_the_host_flag() -> None:
    with pytest.raises(Conflict, match=r"^Cannot listen on 192\.0\.2\.1:0 .*Choose an address .* with --host\.$"):
        Port("192.0.2.1", 0)


def test_a_name_that_is_none_is_refused_naming_the_host_flag() -> None:
    with pytest.raises(Invalid, match="--host 'no such host' cannot be resolved"):
        Port("no such host", 0)


def test_what_listens_is_found_at_the_url() -> None:
    port = Port("127.0.0.1", 0)
    with closing(port.listen()) as listening:
        assert port.url == f"http://127.0.0.1:{listening.getsockname()[1]}"
    close(port)
