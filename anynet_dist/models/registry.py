"""Blocks, stems and heads by name, the users' own among them.

A block, stem or head is an `nn.Module` class registered under a name:

    @register_block("my_block")
    class MyBlock(nn.Module):
        def __init__(self, width_in: int, width_out: int, stride: int, group_width: int | None = None): ...

What it takes beyond its first arguments it asks for by name, and only that is passed to it:

- a block: `(width_in, width_out, stride)` and any of `bottleneck_ratio`, `group_width`, `se_ratio`;
- a stem: `(width_in, width_out)`;
- a head: `(width_in)` and any of `num_classes`, `dropout`.

The layers that a part of yours makes in its constructor keep the values they got there. Ours are drawn as
`model.init` says, also those of a subclass that has no constructor of its own (see initialise.py).

A static method `complexity(tally, ...)` with the same arguments, the tally in place of `width_in`, counts the
part without building it (see complexity.py). Without one, or where a constructor or a forward was
written after it, the part is built and measured by hooks, which is slower; what that cannot see is called
unknown.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from anynet_dist.system.plugins import PluginsNotAllowedError, load_plugins
from anynet_dist.system.registry import Registry

Part = type[nn.Module]
PartClass = TypeVar("PartClass", bound=Part)

BLOCK_OPTIONS = ("bottleneck_ratio", "group_width", "se_ratio")
HEAD_OPTIONS = ("num_classes", "dropout")

BLOCKS: Registry[Part] = Registry(
    "block",
    option="block_type",
    first=("width_in", "width_out", "stride"),
    passed=BLOCK_OPTIONS,
    base=nn.Module,
)
STEMS: Registry[Part] = Registry("stem", first=("width_in", "width_out"), base=nn.Module)
HEADS: Registry[Part] = Registry("head", first=("width_in",), passed=HEAD_OPTIONS, base=nn.Module)
_PARAMETER_NAMES: dict[Part, frozenset[str]] = {}


def register_block(name: str) -> Callable[[PartClass], PartClass]:
    """Register a block class under `name`."""
    return BLOCKS.register(name)


def register_stem(name: str) -> Callable[[PartClass], PartClass]:
    """Register a stem class under `name`."""
    return STEMS.register(name)


def register_head(name: str) -> Callable[[PartClass], PartClass]:
    """Register a head class under `name`."""
    return HEADS.register(name)


def get_block(name: str) -> Part:
    """The block class called `name`; a UserError with the nearest name when there is none."""
    return BLOCKS.find(name)


def get_stem(name: str) -> Part:
    """The stem class called `name`; a UserError with the nearest name when there is none."""
    return STEMS.find(name)


def get_head(name: str) -> Part:
    """The head class called `name`; a UserError with the nearest name when there is none."""
    return HEADS.find(name)


def parameter_names(part: Part) -> frozenset[str]:
    """The names of the arguments that the part's constructor takes."""
    if part not in _PARAMETER_NAMES:
        _PARAMETER_NAMES[part] = frozenset(inspect.signature(part).parameters)
    return _PARAMETER_NAMES[part]


def wanted_options(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that the part's constructor takes."""
    names = parameter_names(part)
    return {name: value for name, value in options.items() if name in names}


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
