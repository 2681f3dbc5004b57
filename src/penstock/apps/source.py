"""The code of an application: found, read once, and run.

Its text is kept, so that a process that is started later runs what was loaded at the start of the server, and not
what has been written into the file since.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from msgspec import Struct

from penstock.base.errors import Invalid

#: 48 bits: they tell apart versions of one application, not all code there is.
_VERSION_DIGITS = 12
_PENSTOCK = str(Path(__file__).parents[1])


class AppSource(Struct, frozen=True):
    """`target` is what the user gave: the path of a file, or a module's name. `file` is the absolute path of the
    code, `text` what it said when it was loaded (without the other modules that it imports), and `folder` where the
    user's code is."""

    target: str
    module: str
    file: str
    folder: str
    text: bytes


def source_version(text: bytes) -> str:
    """12 hexadecimal digits of the SHA-256 of an application's code."""
    return hashlib.sha256(text).hexdigest()[:_VERSION_DIGITS]


def import_target(target: str) -> tuple[ModuleType, AppSource]:
    """Run the user's code. Raises `Invalid` with what to change; for an error in the code, with the lines of the
    traceback that are the user's."""
    if target.endswith(".py") or "/" in target:
        return _import_file(target, Path(target))
    return _import_module(target)


def import_again(source: AppSource) -> ModuleType:
    """Run the code as it was, in another process. `sys.path` has to be what it was. Raises `Invalid` as
    `import_target` does."""
    try:
        # A module of a package: the package comes with it. A file's name means nothing to Python.
        found = None if _is_file(source) else importlib.util.find_spec(source.module)
        spec = found or importlib.util.spec_from_file_location(source.module, source.file)
        assert spec is not None
        return _run(spec, source)
    except (Exception, SystemExit) as error:
        raise Invalid(_explained(source.target, error, Path(source.folder))) from error


def is_users(file: str, folder: Path) -> bool:
    """Whether a file is of the user's own code, which is in `folder`."""
    inside = Path(file).is_absolute() and Path(file).is_relative_to(folder)
    return inside and "site-packages" not in file and not file.startswith(_PENSTOCK)


class _AsItWas(SourceFileLoader):
    """Gives the text that was read, whatever the file says by now."""

    def __init__(self, source: AppSource) -> None:
        super().__init__(source.module, source.file)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source.text, self._source.file)

    def get_data(self, path: str) -> bytes:
        return self._source.text if path == self._source.file else super().get_data(path)


def _is_file(source: AppSource) -> bool:
    return source.target != source.module


def _run(spec: ModuleSpec, source: AppSource) -> ModuleType:
    spec.loader = loader = _AsItWas(source)
    module = sys.modules[source.module] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _import_file(target: str, path: Path) -> tuple[ModuleType, AppSource]:
    if not path.is_file():
        raise Invalid(f"There is no file {path}.")
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names or name == "penstock":
        raise Invalid(f"{path} has the name of another Python module, {name}; rename it.")
    file = path.absolute()
    # As if it were run by `python app.py`: its neighbours can be imported.
    sys.path.insert(0, str(file.parent))
    source = AppSource(target, name, str(file), str(file.parent), file.read_bytes())
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise Invalid(f"{path} is no Python file: its name has to end in .py.")
    try:
        return _run(spec, source), source
    except (Exception, SystemExit) as error:
        raise Invalid(_explained(str(path), error, file.parent)) from error


def _import_module(name: str) -> tuple[ModuleType, AppSource]:
    folder = Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise Invalid(f"There is no module {name!r} in {folder}, nor among those installed.") from error
        raise Invalid(_explained(name, error, folder)) from error
    except (Exception, SystemExit) as error:
        raise Invalid(_explained(name, error, folder)) from error
    file = module.__file__
    if file is None or not file.endswith(".py"):
        raise Invalid(f"The module {name!r} is no Python file ({file}); name the one with your code.")
    return module, AppSource(name, name, file, str(folder), Path(file).read_bytes())


def _explained(target: str, error: BaseException, folder: Path) -> str:
    """What went wrong, with the lines of a traceback that are the user's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename, folder)]
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error)]
    return f"{target} cannot be imported.\n\n{''.join(lines).rstrip()}"
