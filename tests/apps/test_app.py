"""What is registered with an `App`, how it is found, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from penstock import App, DurableObject, Invalid
from penstock.apps import Application
from penstock.apps.loading import load

Load = Callable[..., Application]
TEXT = """
    from penstock import App
    app = App()

    @app.transform("clean")
    def clean(records: list[dict]) -> list[dict]:
        return records
"""


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load_text("app = App()…")` loads a file with this text."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load_text(text: str, name: str) -> Application:
        (tmp_path / f"{name}.py").write_text(dedent(text))
        return load(str(tmp_path / f"{name}.py"), ("Registry",))

    yield load_text
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.startswith("app_"):
            del sys.modules[module]


def keep(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records


def test_a_transform_is_registered_by_its_name_and_the_function_stays_what_it_was() -> None:
    app = App()
    assert app.transform("clean-2", deadline_ms=500, batch_records_max=10)(keep) is keep
    assert app.transform("later")(keep) is keep
    assert list(app.transforms) == ["clean-2", "later"]
    clean, later = app.transforms.values()
    assert (clean.function, clean.deadline_ms, clean.batch_records_max) == (keep, 500, 10)
    assert (later.deadline_ms, later.batch_records_max) == (10_000, 1_000)


def test_whatever_can_be_called_with_a_list_can_be_a_transform() -> None:
    async def later(records: list[dict[str, Any]], more: int = 0) -> list[dict[str, Any]]:
        return records

    app = App()
    app.transform("async")(later)
    app.transform("partial")(partial(later, more=1))
    assert set(app.transforms) == {"async", "partial"}


@pytest.mark.parametrize("name", ["", "a b", "ü", "-a", "_a", "a/b", "a" * 65, "a\n", None, 3])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(Invalid, match="must be 1 to 64 ASCII letters, digits, - and _, and start with a letter"):
        App().transform(name)


def test_the_decorator_without_a_name_says_how_it_is_written() -> None:
    with pytest.raises(Invalid, match=r'needs a name; write @app.transform\("name"\) over: def function'):
        App().transform(keep)  # type: ignore[arg-type]


def test_a_name_is_taken_once() -> None:
    app = App()
    app.transform("clean")(keep)
    with pytest.raises(Invalid, match="two transforms with the name clean"):
        app.transform("clean")(keep)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deadline_ms": 9}, "deadline_ms=9; it must be a whole number from 10 to 300000"),
        ({"deadline_ms": 300_001}, "deadline_ms=300001"),
        ({"deadline_ms": 1.5}, "deadline_ms=1.5"),
        ({"deadline_ms": True}, "deadline_ms=True"),
        ({"batch_records_max": 0}, "batch_records_max=0; it must be a whole number from 1 to 10000"),
        ({"batch_records_max": 10_001}, "batch_records_max=10001"),
    ],
)
def test_a_number_out_of_its_range_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=f"The transform clean has {words}"):
        App().transform("clean", **settings)(keep)


def yielding(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from records


def nothing() -> list[dict[str, Any]]:
    return []


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (yielding, "yields its records; it must return them as one list"),
        (nothing, "must take one argument, the list of records"),
        (lambda a, b: [], "must take one argument"),
        (lambda records, *, key: [], "must take one argument"),
        ("clean", "is no function: 'clean'"),
        (DurableObject, "is no function"),
    ],
)
def test_what_is_no_such_function_is_refused(function: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        App().transform("clean")(function)


def test_a_file_may_have_transforms_alone_or_beside_classes(load_text: Load) -> None:
    alone = load_text(TEXT, "app_alone")
    assert (alone.classes, list(alone.transforms)) == ((), ["clean"])
    both = load_text(TEXT + "    from penstock import DurableObject\n    class A(DurableObject): pass", "app_both")
    assert (both.class_names, list(both.transforms)) == ({"A"}, ["clean"])


def test_an_app_may_be_imported_and_needs_not_be_in_all(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "app_inner.py").write_text(dedent(TEXT))
    application = load_text("from app_inner import app, app as same\n__all__ = []", "app_outer")
    assert list(application.transforms) == ["clean"]


def test_an_error_in_a_registration_is_shown_with_the_users_lines_only(load_text: Load) -> None:
    with pytest.raises(Invalid) as refused:
        load_text(TEXT.replace('"clean"', '"c l"'), "app_named_badly")
    lines = refused.value.message.splitlines()
    assert next(line for line in lines if line.startswith("  File")).endswith('.py", line 5, in <module>')
    assert "apps/app.py" not in refused.value.message
    assert "The transform's name 'c l' must be" in lines[-1]


def test_the_version_is_that_of_the_files_text(load_text: Load) -> None:
    first, same, other = (
        load_text(TEXT, "app_v1"),
        load_text(TEXT, "app_v2"),
        load_text(TEXT + "\n    # more", "app_v3"),
    )
    assert len(first.version) == 12 and set(first.version) <= set("0123456789abcdef")
    assert first.version == same.version != other.version
