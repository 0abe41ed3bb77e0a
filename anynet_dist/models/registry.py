"""Blocks, stems and heads by name, and the users' own ones from plug-in files.

A block, stem or head is an `nn.Module` class registered under a name:

    @register_block("my_block")
    class MyBlock(nn.Module):
        def __init__(self, width_in: int, width_out: int, stride: int, group_width: int | None = None): ...

What it takes beyond its first arguments it asks for by name, and only that is passed to it:

- a block: `(width_in, width_out, stride)` and any of `bottleneck_ratio`, `group_width`, `se_ratio`;
- a stem: `(width_in, width_out)`;
- a head: `(width_in)` and any of `num_classes`, `dropout`.

A name may be registered again by the same class, as a notebook does when its cell is run again; another class
under a name that is taken is refused.

The layers that a part of yours makes in its constructor keep the values they got there. Ours are drawn as
`model.init` says, also those of a subclass that has no constructor of its own (see initialise.py).

A static method `complexity(tally, ...)` with the same arguments, the tally in place of `width_in`, counts the
part without building it (see complexity.py). Without one, or where a constructor or a forward was
written after it, the part is built and measured by hooks, which is slower; what that cannot see is called
unknown.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

from torch import nn

from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.files import not_a_file, sha256_of

Part = type[nn.Module]
PartClass = TypeVar("PartClass", bound=Part)

BLOCKS: dict[str, Part] = {}
STEMS: dict[str, Part] = {}
HEADS: dict[str, Part] = {}
_PARAMETER_NAMES: dict[Part, frozenset[str]] = {}
_ORIGINS: dict[Part, frozenset[str]] = {}
"""Where a class comes from, and those of the same code that it took the place of."""

BLOCK_OPTIONS = ("bottleneck_ratio", "group_width", "se_ratio")
HEAD_OPTIONS = ("num_classes", "dropout")
_DIGEST = "__anynet_digest__"


def register_block(name: str) -> Callable[[PartClass], PartClass]:
    """Register a block class under `name`."""
    return _register("block", BLOCKS, name, ("width_in", "width_out", "stride"), BLOCK_OPTIONS)


def register_stem(name: str) -> Callable[[PartClass], PartClass]:
    """Register a stem class under `name`."""
    return _register("stem", STEMS, name, ("width_in", "width_out"), ())


def register_head(name: str) -> Callable[[PartClass], PartClass]:
    """Register a head class under `name`."""
    return _register("head", HEADS, name, ("width_in",), HEAD_OPTIONS)


def get_block(name: str) -> Part:
    """The block class called `name`; a UserError with the nearest name when there is none."""
    return _get("block_type", BLOCKS, name)


def get_stem(name: str) -> Part:
    """The stem class called `name`; a UserError with the nearest name when there is none."""
    return _get("stem", STEMS, name)


def get_head(name: str) -> Part:
    """The head class called `name`; a UserError with the nearest name when there is none."""
    return _get("head", HEADS, name)


def parameter_names(part: Part) -> frozenset[str]:
    """The names of the arguments that the part's constructor takes."""
    if part not in _PARAMETER_NAMES:
        _PARAMETER_NAMES[part] = frozenset(inspect.signature(part).parameters)
    return _PARAMETER_NAMES[part]


def wanted_options(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that the part's constructor takes."""
    names = parameter_names(part)
    return {name: value for name, value in options.items() if name in names}


def _get(kind: str, registry: dict[str, Part], name: str) -> Part:
    if name not in registry:
        raise unknown_name(kind, name, registry)
    return registry[name]


def _register(
    kind: str, registry: dict[str, Part], name: str, first: tuple[str, ...], options: tuple[str, ...]
) -> Callable[[PartClass], PartClass]:
    def register(part: PartClass) -> PartClass:
        other = registry.get(name)
        if other is not None and not _same_code(other, part):
            raise UserError(
                f"{kind} '{name}' is already registered ({other.__module__}.{other.__qualname__}):"
                " choose another name"
            )
        _check_signature(kind, name, part, first, options)
        registry[name] = part
        _ORIGINS[part] = _origin_of(part) | (_ORIGINS[other] if other else frozenset())
        return part

    return register


def _same_code(before: Part, now: Any) -> bool:
    """Whether a class is `before` again: from the same place, as when a notebook's cell or a module is run
    again, or from another copy of the same plug-in file."""
    if before.__qualname__ != getattr(now, "__qualname__", None):
        return False
    same_place = _ORIGINS[before] & _origin_of(now)
    return before.__module__ == now.__module__ or bool(same_place)


def _origin_of(part: Part) -> frozenset[str]:
    """The file that a class was defined in and, of a plug-in, the digest of its content."""
    module = sys.modules.get(part.__module__)
    found = (getattr(module, "__file__", None), getattr(module, _DIGEST, None))
    return frozenset(place for place in found if place)


def _check_signature(
    kind: str, name: str, part: Part, first: tuple[str, ...], options: tuple[str, ...]
) -> None:
    if not (inspect.isclass(part) and issubclass(part, nn.Module)):
        raise UserError(f"{kind} '{name}' must be a subclass of torch.nn.Module")
    parameters = inspect.signature(part).parameters
    if tuple(parameters)[: len(first)] != first:
        found = ", ".join(parameters)
        raise UserError(f"{kind} '{name}' must take ({', '.join(first)}, ...) first; it takes ({found})")
    for parameter in list(parameters.values())[len(first) :]:
        if parameter.default is parameter.empty and parameter.name not in options:
            allowed = ", ".join(options) or "no others"
            raise UserError(
                f"{kind} '{name}' needs an argument '{parameter.name}' that nobody gives it: "
                f"give it a default value (passed by name: {allowed})"
            )


class PluginsNotAllowedError(UserError):
    """A file asks for python code to be run, and nobody has allowed it."""

    def __init__(self, file: str | os.PathLike[str], plugins: Iterable[str]) -> None:
        self.plugins = ", ".join(plugins)
        super().__init__(
            f"{os.fspath(file)} asks for python code to be run: {self.plugins}; read it, then allow it with"
            " --allow-plugins (in Python allow_plugins=True)"
        )


def provide_parts(
    model: Mapping[str, Any], plugins: Sequence[str], file: str | os.PathLike[str], allow_plugins: bool
) -> None:
    """Load the plug-ins that `file` names for its network `model`, if that is allowed.

    Raises PluginsNotAllowedError where it is not, and the network has parts that are not registered yet.
    """
    if allow_plugins:
        load_plugins(plugins)
    elif plugins and not _all_registered(model):
        raise PluginsNotAllowedError(file, plugins)


def _all_registered(model: Mapping[str, Any]) -> bool:
    """Whether the block types, stem and head that a description names are there."""
    blocks = model.get("block_type")
    named = [(BLOCKS, name) for name in (blocks if isinstance(blocks, list | tuple) else [blocks])]
    named += [(STEMS, model.get("stem")), (HEADS, model.get("head"))]
    return all(name in registry for registry, name in named if isinstance(name, str))


def load_plugins(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Import users' own python files, so that what they register can be named; again where one has changed.

    Raises:
        UserError: a file is missing, or fails when imported; the message gives file, line and cause.
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
    return any(vars(module).get(_DIGEST) == digest for module in list(sys.modules.values()) if module)


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
    if earlier is not None and getattr(earlier, _DIGEST, None) == digest:
        return
    if path.suffix != ".py":
        raise UserError(f"plugin {path}: not a python file (its name must end in .py)")
    loader = _PluginLoader(name, str(path))
    module_spec = importlib.util.spec_from_loader(name, loader)
    assert module_spec is not None
    module = importlib.util.module_from_spec(module_spec)
    setattr(module, _DIGEST, digest)
    sys.modules[name] = module
    before = [(registry, dict(registry)) for registry in (BLOCKS, STEMS, HEADS)]
    try:
        loader.exec_module(module)
    except Exception as error:
        # Leave nothing half registered, so that a corrected file can be loaded again.
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
        for registry, content in before:
            registry.clear()
            registry.update(content)
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
