"""Users' own python files: imported, located when they fail, and read again when they have changed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from anynet_dist.system.errors import UserError
from anynet_dist.system.files import not_a_file, sha256_of
from anynet_dist.system.registry import DIGEST, all_or_nothing


class PluginsNotAllowedError(UserError):
    """A file asks to run Python code, which was not allowed."""

    def __init__(self, file: str | os.PathLike[str], plugins: Iterable[str]) -> None:
        self.plugins = ", ".join(plugins)
        super().__init__(
            f"{os.fspath(file)} asks to run Python code: {self.plugins}; read it, then allow it with"
            " --allow-plugins (in Python allow_plugins=True)"
        )


def load_plugins(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Import users' own python files, so that what they register can be named; again where one has changed.

    Raises UserError, with file, line and cause, where a file is missing or fails when it is imported.
    """
    for path in paths:
        _load_plugin(Path(path).expanduser().absolute())


def is_loaded(path: str | os.PathLike[str]) -> bool:
    """Whether `load_plugins` has imported this file, or one with the same content."""
    path = Path(path).expanduser()
    if not path.is_file():
        return False
    digest = sha256_of(path)
    # Not getattr: some modules of torch import others when they are asked for a name.
    return any(vars(module).get(DIGEST) == digest for module in list(sys.modules.values()) if module)


def _module_name(path: Path) -> str:
    """Two plug-ins may share a file name, so it carries a hash of the whole path: of the file itself, not of
    a link to it."""
    path = path.resolve()
    return f"anynet_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


class _PluginLoader(SourceFileLoader):
    """Compiles the file each time: compiled code on the disk misses changes within a second, and would lie
    beside users' files."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_plugin(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"plugin {path}: {not_a_file(path) or 'no such file'}")
    name, digest = _module_name(path), sha256_of(path)
    earlier = sys.modules.get(name)
    if earlier is not None and getattr(earlier, DIGEST, None) == digest:
        return
    if path.suffix != ".py":
        raise UserError(f"plugin {path}: not a python file (its name must end in .py)")
    loader = _PluginLoader(name, str(path))
    module_spec = importlib.util.spec_from_loader(name, loader)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    setattr(module, DIGEST, digest)
    sys.modules[name] = module
    try:
        with all_or_nothing():
            loader.exec_module(module)
    except Exception as error:
        # Leave nothing half registered, so that a corrected file can be loaded again.
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"plugin {path}:{_line_of(error, path)}: {cause}") from error


def _line_of(error: Exception, path: Path) -> int:
    """The last line of `path` that took part in the error."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return (lines[-1] if lines else None) or 1
