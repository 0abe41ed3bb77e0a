"""The schema seen as a flat table: every option by its dotted key, with type, default and meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from anynet_dist.config import schema
from anynet_dist.data.transforms import augmentation
from anynet_dist.system.errors import nearest_name

# What others call these options, where the spelling alone would not lead there.
OTHER_NAMES = {
    "amp": "train.precision",
    "base_lr": "optim.lr",
    "batch_size": "train.global_batch",
    "depths": "model.num_blocks_per_stage",
    "grad_clip": "train.clip_grad_norm",
    "groups": "model.group_width",
    "learning_rate": "optim.lr",
    "mixed_precision": "train.precision",
    "num_epochs": "train.epochs",
    "num_workers": "data.workers",
    "output_dir": "run.dir",
    "wd": "optim.weight_decay",
    "widths": "model.num_channels",
}


@dataclass(frozen=True)
class Option:
    """One value of the config."""

    key: str
    type: Any
    default: Any
    doc: str

    @property
    def alternatives(self) -> tuple[Any, ...]:
        """The types it may have, without the constraints on them."""
        return tuple(_bare(member) for member in _members(_bare(self.type)))

    @property
    def takes_list(self) -> bool:
        """Whether several values can be given."""
        return any(get_origin(kind) in (list, tuple) for kind in self.alternatives)

    @property
    def is_mapping(self) -> bool:
        """Whether it holds values by names that are not ours."""
        return any(get_origin(kind) is dict for kind in self.alternatives)

    @property
    def takes_one(self) -> bool:
        """Whether a value by itself can be given."""
        return any(
            get_origin(kind) not in (list, tuple) and kind is not NoneType for kind in self.alternatives
        )

    @property
    def takes_string(self) -> bool:
        """Whether a value is a string, so that `1` means the string and not the number."""
        inner = [
            _bare(item) for kind in self.alternatives if get_origin(kind) is list for item in get_args(kind)
        ]
        return any(kind is str or get_origin(kind) is Literal for kind in (*self.alternatives, *inner))

    @property
    def is_switch(self) -> bool:
        """Whether it can be true or false."""
        return bool in self.alternatives

    @property
    def choices(self) -> tuple[str, ...]:
        """The names it may take, where they are a fixed set."""
        return next((get_args(kind) for kind in self.alternatives if get_origin(kind) is Literal), ())

    @property
    def expected(self) -> str:
        """What it must be, for messages."""
        return " or ".join(_described(kind) for kind in _members(self.type) if kind is not NoneType)


@cache
def options() -> dict[str, Option]:
    """Every option by its dotted key, in the order of the schema."""
    return {option.key: option for option in _options_of(schema.Config, "")}


def option_of(key: str) -> str | None:
    """The option that a dotted `key` belongs to: itself, or the mapping that it is in; None for neither."""
    if key in options():
        return key
    above = key.rpartition(".")[0]
    while above and above not in options():
        above = above.rpartition(".")[0]
    return above if above and options()[above].is_mapping else None


@cache
def sections() -> dict[str, str]:
    """The meaning of every section by its dotted name."""
    return dict(_sections_of(schema.Config, ""))


def nearest_key(key: str) -> str | None:
    """The option most likely meant by an unknown `key`, also when it stands in the wrong section."""
    name = key.rpartition(".")[2]
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    same_name = [known for known in options() if known.rpartition(".")[2] == name]
    if same_name:
        return max(same_name, key=lambda known: SequenceMatcher(None, key, known).ratio())
    by_name = {known.rpartition(".")[2]: known for known in options()}
    nearest = nearest_name(name, by_name)
    return nearest_name(key, options()) or (by_name[nearest] if nearest else None)


def _options_of(section: type, prefix: str) -> Iterator[Option]:
    types = get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        key, kind = f"{prefix}{field.name}", types[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _options_of(kind, f"{key}.")
        else:
            yield Option(key, kind, _default(field), _doc(section, field.name))


def _sections_of(section: type, prefix: str) -> Iterator[tuple[str, str]]:
    for name, kind in get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield f"{prefix}{name}", inspect.getdoc(kind) or ""
            yield from _sections_of(kind, f"{prefix}{name}.")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _doc(section: type, name: str) -> str:
    """The docstring under a field of a section, or of a class that it extends."""
    found = (_docs().get((kind.__name__, name)) for kind in section.__mro__)
    return next((doc for doc in found if doc), "")


@cache
def _docs() -> dict[tuple[str, str], str]:
    """The docstrings under the fields, which Python itself does not keep, by class and field."""
    docs = {}
    trees = [ast.parse(inspect.getsource(module)) for module in (augmentation, schema)]
    for section in (node for tree in trees for node in tree.body):
        if not isinstance(section, ast.ClassDef):
            continue
        for field, below in zip(section.body, section.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(field.target, ast.Name)
                assert isinstance(below.value, ast.Constant)
                docs[section.name, field.target.id] = " ".join(str(below.value.value).split())
    return docs


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _described(kind: Any, many: bool = False) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join("null" if member is NoneType else _described(member, many) for member in arguments)
    if origin is Annotated:
        return arguments[1].description or _described(arguments[0], many) + _bounds(arguments[1])
    if origin is dict:
        return "names with values"
    if origin is list:
        return f"a list of {_described(arguments[0], many=True)}"
    if origin is tuple:
        return f"a list of {len(arguments)} {_described(arguments[0], many=True)}"
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    one, several = {
        bool: ("true or false", "booleans"),
        int: ("an integer", "integers"),
        float: ("a number", "numbers"),
        str: ("a string", "strings"),
    }[kind]
    return several if many else one


def _bounds(constraint: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in constraint.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    return f" {' and '.join(bounds)}" if bounds else ""
