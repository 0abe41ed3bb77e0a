"""RegNet: widths and depths from four numbers (Designing Network Design Spaces, Radosavovic et al., 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anynet_dist.models.limits import check_blocks, check_most
from anynet_dist.system.errors import UserError, unknown_name

QUANTUM = 8
"""Widths are multiples of this (section 3.3)."""


@dataclass(frozen=True, slots=True)
class RegNetStages:
    """The stages that a quantised linear function gives."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_levels: int
    """Levels up to the last block's; more than len(widths) where some were skipped or rounded to one width.

    The paper's sampler keeps only networks where both are equal."""


def regnet_stages(*, w0: int, wa: float, wm: float, depth: int) -> RegNetStages:
    """Widths and depths of a RegNet (section 3.3, equations 2 to 4).

    Block j of `depth` has u_j = w0 + wa * j; s_j = log(u_j / w0) / log(wm); its width is w0 * wm^round(s_j),
    rounded to a multiple of 8 (both half to even). Blocks of equal width form a stage.

    Raises UserError where a parameter is outside its range.
    """
    if wa < 0 or w0 <= 0 or wm <= 1 or w0 % QUANTUM:
        raise UserError(
            f"RegNet needs w0 a positive multiple of {QUANTUM}, wa >= 0 and wm > 1, "
            f"not w0 {w0}, wa {wa}, wm {wm}"
        )
    if depth < 1:
        raise UserError(f"RegNet needs a depth of at least 1, not {depth}")
    check_blocks([depth])
    check_most("the width of the last block", "num_channels", w0 + wa * (depth - 1))
    levels = [round(math.log((w0 + wa * j) / w0) / math.log(wm)) for j in range(depth)]
    block_widths = [round(w0 * wm**level / QUANTUM) * QUANTUM for level in levels]
    widths = tuple(sorted(set(block_widths)))
    return RegNetStages(widths, tuple(block_widths.count(width) for width in widths), max(levels) + 1)


def nearest_multiple(value: float, divisor: int) -> int:
    """`value` rounded to a multiple of `divisor` (half to even), at least one of them."""
    return max(divisor, round(value / divisor) * divisor)


def generous_multiple(value: float, divisor: int) -> int:
    """Like `nearest_multiple` with halves up, but never below 90 % of `value`: torchvision's rule."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def compatible_widths(
    widths: Sequence[int],
    bottleneck_ratios: Sequence[float],
    group_widths: Sequence[int],
    rounding: Callable[[float, int], int] = nearest_multiple,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and group widths, changed so that each group width divides its bottleneck (pycls' rule).

    g = min(g, w / b); then w / b is rounded to a multiple of g (of lcm(g, 1 / b) in an inverted bottleneck).
    """
    new_widths, new_groups = [], []
    for width, ratio, group in zip(widths, bottleneck_ratios, group_widths, strict=True):
        inner = max(1, int(width / ratio))
        group = min(group, inner)
        divisor = math.lcm(group, int(1 / ratio)) if ratio < 1 else group
        new_widths.append(int(rounding(inner, divisor) * ratio))
        new_groups.append(group)
    return tuple(new_widths), tuple(new_groups)


def regnet_description(
    *,
    w0: int,
    wa: float,
    wm: float,
    depth: int,
    group_width: int,
    bottleneck_ratio: float = 1.0,
    se_ratio: float = 0.0,
    stem_width: int = 32,
    rounding: Callable[[float, int], int] = nearest_multiple,
) -> dict[str, Any]:
    """A RegNet in the vocabulary of `network_spec`: RegNetX, or RegNetY with `se_ratio` 0.25."""
    stages = regnet_stages(w0=w0, wa=wa, wm=wm, depth=depth)
    ratios, groups = [bottleneck_ratio] * len(stages.widths), [group_width] * len(stages.widths)
    widths, group_widths = compatible_widths(stages.widths, ratios, groups, rounding)
    return {
        "block_type": "bottleneck",
        "num_blocks_per_stage": list(stages.depths),
        "num_channels": [stem_width, *widths],
        "bottleneck_ratio": bottleneck_ratio,
        "group_width": list(group_widths),
        "se_ratio": se_ratio,
        "strides": 2,
        "stem": "conv3x3_s2",
        "head": "linear",
    }


NEEDED = ("w0", "wa", "wm", "depth", "group_width")
OPTIONAL = ("bottleneck_ratio", "se_ratio", "stem_width")
WHOLE_NUMBERS = ("w0", "depth", "group_width", "stem_width")


def described_regnet(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`regnet_description` of parameters that may hold anything, as those read from a file.

    Raises UserError where one is missing, unknown, not a number or out of range.
    """
    for name, value in parameters.items():
        if name not in NEEDED + OPTIONAL:
            raise unknown_name("parameter of a RegNet", name, NEEDED + OPTIONAL)
        whole = name in WHOLE_NUMBERS
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise UserError(f"regnet.{name} must be {'an integer' if whole else 'a number'}, not {value!r}")
        if not math.isfinite(value):
            raise UserError(f"regnet.{name} must be a number, not {value}")
        check_most(f"regnet.{name}", name, value)
    missing = [name for name in NEEDED if name not in parameters]
    if missing:
        raise UserError(f"a RegNet needs {', '.join(NEEDED)}: {', '.join(missing)} missing")
    for name in ("group_width", "bottleneck_ratio", "stem_width"):
        if parameters.get(name, 1) <= 0:
            raise UserError(f"regnet.{name} must be above 0, not {parameters[name]}")
    return regnet_description(**parameters)
