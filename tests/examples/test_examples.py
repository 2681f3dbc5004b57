from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .conftest import ROOT

Run = Callable[[str], Any]


@pytest.mark.parametrize("name", ["rate_limiter", "reminders", "shopping_cart"])
def test_an_example_is_short(name: str) -> None:
    assert len((ROOT / f"examples/{name}.py").read_text().splitlines()) < 80


def test_a_rate_limiter_lets_so_many_through_and_no_more_also_over_a_restart(run_example: Run) -> None:
    example = run_example("rate_limiter")

    def take(key: str) -> int:
        status: int = example.call("POST", f"RateLimiter/{key}/take", token=False)[0]
        return status

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(take, ["ann"] * 20))
    assert (answers.count(200), answers.count(429)) == (5, 15)
    assert take("bob") == 200
    example.server.stop()
    example = run_example("rate_limiter")
    answer = example.server.request("POST", "/objects/RateLimiter/ann/take")
    assert (answer.status, answer.json) == (429, {"allowed": False})
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert [take("bob") for _ in range(5)] == [200] * 4 + [429]
    assert example.call("GET", "RateLimiter/bob", token=False)[0] == 404


def test_reminders_arrive_once_also_if_the_server_was_killed_meanwhile(run_example: Run) -> None:
    example = run_example("reminders")
    names = ["ann", "bob", "ann/bob", "ßä"]
    for n, name in enumerate(names):
        path = f"Reminders/{name.replace('/', '%2F').replace('ßä', '%C3%9F%C3%A4')}"
        for text in ("first", "second"):
            status, answer = example.call("POST", path, {"text": f"{text} {n}", "in_seconds": 0.5})
            assert (status, set(answer)) == (201, {"id"})
    assert example.call("POST", "Reminders/ann", {"text": "later", "in_seconds": 3600})[0] == 201
    for pid in example.server.executors().values():
        os.kill(pid, signal.SIGKILL)
    example.server.wait(lambda: len(example.server.lines("executor_ready")) == 4)
    paths = ["ann", "bob", "ann%2Fbob", "%C3%9F%C3%A4"]
    for n, path in enumerate(paths):
        expected = [f"first {n}", f"second {n}"]
        example.wait(lambda path=path, expected=expected: example.call("GET", f"Inbox/{path}")[1] == expected)
    [left] = example.call("GET", "Reminders/ann")[1]
    assert left["text"] == "later"
    assert example.call("POST", "Reminders/ann", {"text": "no time"})[0] == 400


def test_a_cart_reserves_all_of_its_lines_or_none(run_example: Run) -> None:
    example = run_example("shopping_cart")
    for product, stock in (("tea", 3), ("pot", 1), ("cup", 10)):
        assert example.call("PUT", f"Inventory/{product}", {"stock": stock}) == (200, {"left": stock})
    status, lines = example.call("POST", "Cart/1", {"tea": 2, "pot": 1})
    assert status == 200
    assert lines == [
        {"product": "pot", "amount": 1, "state": "reserved"},
        {"product": "tea", "amount": 2, "state": "reserved"},
    ]
    status, answer = example.call("POST", "Cart/2", {"cup": 4, "tea": 1, "pot": 1})
    assert (status, answer["error"]["message"]) == (409, "There are only 0 of pot left.")
    assert example.call("GET", "Cart/2") == (200, [])
    assert example.call("POST", "Cart/2", {"cup": -4})[0] == 400
    left = {product: example.call("GET", f"Inventory/{product}")[1]["left"] for product in ("tea", "pot", "cup")}
    assert left == {"tea": 1, "pot": 0, "cup": 10}
    assert example.call("POST", "Cart/2", {"cup": 4, "tea": 1})[0] == 200
    assert example.call("POST", "Cart/1", {"tea": 1})[0] == 409


def test_of_many_carts_that_want_the_last_ones_some_get_them_and_nothing_is_sold_twice(run_example: Run) -> None:
    example = run_example("shopping_cart")
    for product in ("tea", "pot"):
        example.call("PUT", f"Inventory/{product}", {"stock": 5})

    def buy(cart: int) -> int:
        order = ["tea", "pot"] if cart % 2 else ["pot", "tea"]
        status: int = example.call("POST", f"Cart/{cart}", dict.fromkeys(order, 1))[0]
        return status

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(buy, range(16)))
    assert set(answers) == {200, 409}
    for product in ("tea", "pot"):
        assert example.call("GET", f"Inventory/{product}")[1]["left"] == 5 - answers.count(200)
