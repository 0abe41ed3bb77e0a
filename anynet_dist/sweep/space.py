"""A space: which parameters its networks have, what they are drawn from, and which networks count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from anynet_dist.models.complexity import Complexity
from anynet_dist.models.registry import get_block, parameter_names
from anynet_dist.models.regnet import compatible_widths, regnet_stages
from anynet_dist.sweep.distributions import Distribution, Grid, Value
from anynet_dist.system.errors import UserError

Across = Literal["each", "tied", "ordered"]

PER_STAGE = {
    "block_type": "block_type",
    "depth": "num_blocks_per_stage",
    "width": "num_channels",
    "bottleneck_ratio": "bottleneck_ratio",
    "group_width": "group_width",
    "stride": "strides",
    "se_ratio": "se_ratio",
}
"""The parameters of stages, and their options in a run config."""
REGNET = "regnet."
MEASURES = ("flops", "params", "acts")

Draw = dict[str, tuple[Value, ...]]
"""The values of one network: of each parameter one, or one for each stage."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What one parameter is drawn from, and how its values in the stages belong together."""

    name: str
    """One of PER_STAGE, `regnet.` and a RegNet's parameter, or an option of a run config such as optim.lr."""
    distribution: Distribution
    across: Across | None = None
    """each: drawn for each stage; tied: one value for all; ordered: drawn for each, not decreasing. None for
    what is no parameter of stages."""
    when: tuple[str, tuple[Value, ...]] | None = None
    """Only where another parameter of the same stage has one of these values."""

    def degrees(self, stages: int) -> int:
        """Degrees of freedom in a space of so many stages; none where there is nothing to choose."""
        return 0 if self.distribution.count == 1 else self.draws(stages)

    def draws(self, stages: int) -> int:
        """How many values are drawn for a network."""
        return stages if self.across in ("each", "ordered") else 1

    def size(self, stages: int) -> int | None:
        """How many values it can take together; None where that is not finite."""
        count = self.distribution.count
        if count is None:
            return None
        if self.across == "ordered":
            return math.comb(count + stages - 1, stages)
        return int(count ** self.draws(stages))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a measure of complexity must lie between, ends included."""

    least: float = 0.0
    most: float = math.inf
    most_per_flop: float = 0.0
    """Added to `most` for each multiply-add: pycls' params < 3 + 5.5 F (in millions and billions) is most 3e6
    and most_per_flop 5.5e-3."""

    def upper(self, flops: float) -> float:
        """The upper bound for a network of so many multiply-adds."""
        return self.most + self.most_per_flop * flops


@dataclass(frozen=True, kw_only=True)
class Space:
    """Networks to draw: parameters, what is fixed, and the window of complexity."""

    name: str
    stages: int
    parameters: tuple[Parameter, ...]
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model section that all networks share."""
    stem_width: int = 32
    resolution: int = 224
    """Side in pixels of the image that complexity is counted for."""
    num_classes: int = 1000
    window: dict[str, Bound] = field(default_factory=dict)
    """By measure: flops, params, acts."""

    @property
    def is_regnet(self) -> bool:
        """Whether depths and widths come from RegNet's parameters."""
        return any(parameter.name.startswith(REGNET) for parameter in self.parameters)

    @property
    def degrees_of_freedom(self) -> int:
        """Numbers that are drawn for a network."""
        return sum(parameter.degrees(self.stages) for parameter in self.parameters)

    @property
    def size(self) -> int | None:
        """How many draws there are, before any is refused; None where that is not finite."""
        if any(parameter.when for parameter in self.parameters):
            return self._conditional_size()
        sizes = [parameter.size(self.stages) for parameter in self.parameters]
        return None if None in sizes else math.prod(size or 0 for size in sizes)

    def _conditional_size(self) -> int | None:
        """The same where some parameters of a stage depend on another one of that stage."""
        controls = {parameter.when[0] for parameter in self.parameters if parameter.when}
        bound = [parameter for parameter in self.parameters if parameter.when]
        control = next((p for p in self.parameters if p.name in controls), None)
        if len(controls) != 1 or control is None or not isinstance(control.distribution, Grid):
            return None
        draws = {parameter.draws(self.stages) for parameter in (control, *bound)}
        if len(draws) != 1 or any(parameter.across == "ordered" for parameter in (control, *bound)):
            return None
        free = [p.size(self.stages) for p in self.parameters if p is not control and not p.when]
        per_value = [_choices(value, bound) for value in control.distribution.values]
        if None in free or None in per_value:
            return None
        return math.prod(size or 0 for size in free) * sum(size or 0 for size in per_value) ** draws.pop()

    def refusal(self, complexity: Complexity) -> str | None:
        """Which bound of the window a network's complexity lies outside of; None where it lies within."""
        if complexity.flops is None or complexity.acts is None:
            return "cost cannot be counted"
        for measure, bound in self.window.items():
            value = getattr(complexity, measure)
            if value < bound.least:
                return f"{measure} below {bound.least:.4g}"
            if value > bound.upper(complexity.flops):
                per_flop = f" + {bound.most_per_flop:g} x flops" if bound.most_per_flop else ""
                return f"{measure} above {bound.most:.4g}{per_flop}"
        return None


def _choices(value: Value, bound: list[Parameter]) -> int | None:
    """Values of one stage whose controlling parameter has `value`."""
    total = 1
    for parameter in bound:
        if parameter.when and value in parameter.when[1]:
            if parameter.distribution.count is None:
                return None
            total *= parameter.distribution.count
    return total


class UnbuildableError(UserError):
    """A draw that is no network of the space."""


def model_of(space: Space, draw: Draw) -> dict[str, Any]:
    """A draw as the model section of a run config. Raises UnbuildableError where it is none of the space.

    Widths and group widths are made to fit each other as pycls does it, where a block has groups.
    """
    model = dict(space.model)
    if space.is_regnet:
        model["regnet"] = _regnet(space, draw)
        return model
    values = {name: list(draw[name]) for name in PER_STAGE if name in draw}
    for name, stages in values.items():
        values[name] = stages * space.stages if len(stages) == 1 else stages
    widths = values.pop("width")
    groups = values.get("group_width")
    if groups is not None:
        ratios = values.get("bottleneck_ratio", [model.get("bottleneck_ratio", 1.0)] * space.stages)
        blocks = values.get("block_type", [model.get("block_type", "bottleneck")] * space.stages)
        _fit_groups(widths, groups, ratios, blocks)
    model |= {PER_STAGE[name]: stages for name, stages in values.items() if stages != [None] * space.stages}
    model["num_channels"] = [space.stem_width, *widths]
    return model


def _fit_groups(widths: list[Any], groups: list[Any], ratios: list[Any], blocks: list[Any]) -> None:
    for stage, (group, block) in enumerate(zip(groups, blocks, strict=True)):
        if group is None or "group_width" not in parameter_names(get_block(block)):
            groups[stage] = None
            continue
        ratio = ratios[stage] if ratios[stage] is not None else 1.0
        (widths[stage],), (groups[stage],) = compatible_widths([widths[stage]], [ratio], [group])


def _regnet(space: Space, draw: Draw) -> dict[str, Any]:
    regnet: dict[str, Any] = {
        name.removeprefix(REGNET): value[0] for name, value in draw.items() if name.startswith(REGNET)
    }
    stages = regnet_stages(w0=regnet["w0"], wa=regnet["wa"], wm=regnet["wm"], depth=regnet["depth"])
    if stages.num_levels != len(stages.widths):
        raise UnbuildableError("RegNet's widths skip a level")
    if len(stages.widths) != space.stages:
        raise UnbuildableError(f"RegNet has not {space.stages} stages")
    return regnet


def with_window(space: Space, bounds: Mapping[str, Bound]) -> Space:
    """The space with these bounds in place of its own of the same measures."""
    return Space(**{**space.__dict__, "window": {**space.window, **bounds}})
