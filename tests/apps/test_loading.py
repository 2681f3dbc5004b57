"""From a file to an application; and what is said when that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from penstock.apps import Application
from penstock.apps.loading import load
from penstock.base.errors import Invalid

Load = Callable[..., Application]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load_text("class A(DurableObject): …")` loads a file with this text, of a new name each time."""
    path, modules, count = list(sys.path), set(sys.modules), 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load_text(text: str, name: str = "", as_module: bool = False) -> Application:
        nonlocal count
        count += 1
        name = name or f"app_{count}"
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("from penstock import DurableObject, Migration, Request, Response\n" + dedent(text))
        return load(name if as_module else str(file), ("Registry", "Coordinator"))

    yield load_text
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.startswith(("app_", "helper_")):
            del sys.modules[module]


def names(application: Application) -> list[str]:
    return [cls.__name__ for cls in application.classes]


def test_every_public_class_that_the_file_defines_is_served(load_text: Load) -> None:
    text = """
        class Counter(DurableObject): pass
        class Special(Counter): pass
        class _Base(DurableObject): pass
        class Plain: pass
        alias = Counter
    """
    application = load_text(text)
    assert names(application) == ["Counter", "Special"]
    assert (application.env, application.migrations) == (None, ())


def test_classes_that_it_imports_are_served_only_if_all_names_them(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "helper_a.py").write_text("from penstock import DurableObject\nclass Other(DurableObject): pass\n")
    text = "from helper_a import Other\nclass Mine(DurableObject): pass\n"
    assert names(load_text(text)) == ["Mine"]
    assert names(load_text(text + '__all__ = ["Other", "Mine"]')) == ["Other", "Mine"]


def test_env_and_migrations_belong_to_it(load_text: Load) -> None:
    text = """
        class A(DurableObject): pass
        env = {"limit": 3}
        migrations = [Migration(tag="v1", renamed={"B": "A"}), Migration(tag="v2", deleted=["C"])]
    """
    application = load_text(text)
    assert application.env == {"limit": 3}
    assert [migration.tag for migration in application.migrations] == ["v1", "v2"]


def test_a_module_is_found_from_the_working_directory(load_text: Load) -> None:
    assert names(load_text("class A(DurableObject): pass", as_module=True)) == ["A"]


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(Invalid) as refused:
        load()
    return refused.value.message


def test_an_error_is_shown_with_the_users_lines_only(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "helper_b.py").write_text("def fail():\n    import json\n    json.loads('{')\n")
    message = refusal(lambda: load_text("import helper_b\nhelper_b.fail()\n", "app_broken"))
    lines = message.splitlines()
    assert lines[0] == f"{tmp_path}/app_broken.py cannot be imported."
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        f'File "{tmp_path}/app_broken.py", line 3, in <module>',
        f'File "{tmp_path}/helper_b.py", line 3, in fail',
    ]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: ")
    assert "importlib" not in message and "loading.py" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class A(DurableObject:\n", "SyntaxError"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = undefined", "NameError: name 'undefined' is not defined"),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_whatever_fails_in_it_is_said(load_text: Load, text: str, words: str, as_module: bool) -> None:
    assert words in refusal(lambda: load_text(text, as_module=as_module))


INIT = "A.__init__ must be written as: def __init__(self, ctx: Context, env: …) -> None"
ALARM = "A.alarm must be written as: async def alarm(self, info: AlarmInfo) -> None."
FETCH = "must be written as: async def fetch(self, request: Request) -> Response."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "It defines no public subclass of penstock.DurableObject, and registers nothing with a penstock"),
        ("from penstock import App\napp = App()", "registers nothing with a penstock.App."),
        (
            "from penstock import App\na = App()\nb = App()\nclass A(DurableObject): pass",
            "It has more than one penstock.App (a and b); register everything with one.",
        ),
        ("class Registry(DurableObject): pass", "has the name of one of Penstock's own (Registry, Coordinator)"),
        ("class Zähler(DurableObject): pass", "needs another name"),
        (f"class {'A' * 65}(DurableObject): pass", "needs another name"),
        ("class Ab(DurableObject): pass\nclass AB(DurableObject): pass", "Ab and AB must differ in more"),
        ("class A(DurableObject):\n    public = 1", "A.public is 1; it must be True or False."),
        ("class A(DurableObject):\n    public = True", "A is public but has no method to reach"),
        ("class A(DurableObject):\n    async def fetch(self, request): pass", FETCH),
        ("class A(DurableObject):\n    async def fetch(self) -> Response: pass", FETCH),
        ("class A(DurableObject):\n    def fetch(self, request: Request) -> Response: pass", FETCH),
        ("class A(DurableObject):\n    async def fetch(self, request: Request) -> str: pass", FETCH),
        ("class A(DurableObject):\n    def __init__(self): pass", INIT),
        ("class A(DurableObject):\n    def __init__(self, ctx, env, more): pass", INIT),
        ("class A(DurableObject):\n    async def __init__(self, ctx, env): pass", INIT),
        ("class A(DurableObject):\n    def alarm(self, info): pass", ALARM),
        ("class A(DurableObject):\n    async def alarm(self): pass", ALARM),
        ("class A(DurableObject): pass\n__all__ = ['A', 'Gone']", "__all__ names what it does not have: Gone."),
        ("class A(DurableObject):\n    def f(self, *, x): pass", "has the keyword-only parameter 'x'"),
        ("class A(DurableObject):\n    def f(self, x: 'Nothing'): pass", "name 'Nothing' is not defined"),
        ("class A(DurableObject): pass\nmigrations = [1]", "`migrations` must be a list of penstock.Migration."),
        (
            "class A(DurableObject): pass\nmigrations = [Migration(tag='a'), Migration(tag='a')]",
            "Two migrations have the tag 'a'",
        ),
        ("import threading\nthreading.Thread(target=threading.Event().wait, args=(1,)).start()", "starts a thread"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_change(load_text: Load, text: str, words: str) -> None:
    assert words in refusal(lambda: load_text(text))


@pytest.mark.parametrize(
    "arguments",
    ["tag=''", "tag=1", "tag='a', renamed=['B']", "tag='a', deleted='B'", "tag='a', renamed={'A': 'C', 'B': 'C'}"],
)
def test_a_migration_that_is_none_is_refused_where_it_is_written(load_text: Load, arguments: str) -> None:
    assert "TypeError: a Migration's" in refusal(lambda: load_text(f"Migration({arguments})"))


def test_a_file_that_is_not_there_or_shadows_a_module_is_refused(load_text: Load, tmp_path: Path) -> None:
    assert "There is no file" in refusal(lambda: load("nowhere.py", ()))
    assert "There is no module 'nowhere'" in refusal(lambda: load("nowhere", ()))
    assert "has the name of another Python module, queue" in refusal(lambda: load_text("", "queue"))
