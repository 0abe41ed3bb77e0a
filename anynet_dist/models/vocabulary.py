"""From the design document's vocabulary to a checked `NetworkSpec`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from anynet_dist.models.complexity import Complexity, Resolution, network_complexity
from anynet_dist.models.limits import MOST, check_blocks, check_most, check_parameters
from anynet_dist.models.registry import BLOCK_OPTIONS, get_block, get_head, get_stem, parameter_names
from anynet_dist.models.regnet import compatible_widths, described_regnet
from anynet_dist.models.spec import HeadSpec, NetworkSpec, StageSpec, StemSpec
from anynet_dist.models.zoo import preset_description
from anynet_dist.system.errors import UserError, unknown_name

logger = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "block_type": "bottleneck",
    "bottleneck_ratio": 1.0,
    "group_width": None,
    "se_ratio": 0.0,
    "strides": 2,
    "stem": "conv3x3_s2",
    "head": "linear",
    "dropout": 0.0,
}
PER_STAGE = (
    "num_blocks_per_stage",
    "num_channels",
    "block_type",
    "bottleneck_ratio",
    "group_width",
    "strides",
    "se_ratio",
)
WHOLE_NUMBERS = ("num_blocks_per_stage", "num_channels", "group_width", "strides")


def network_spec(
    *,
    preset: str | None = None,
    regnet: Mapping[str, Any] | None = None,
    block_type: str | Sequence[str] | None = None,
    num_stages: int | None = None,
    num_blocks_per_stage: int | Sequence[int] | None = None,
    num_channels: int | Sequence[int] | None = None,
    bottleneck_ratio: float | Sequence[float] | None = None,
    group_width: int | Sequence[int | None] | None = None,
    strides: int | Sequence[int] | None = None,
    se_ratio: float | Sequence[float] | None = None,
    stem: str | None = None,
    head: str | None = None,
    dropout: float | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    init: Literal["pycls", "torch"] | None = None,
    zero_init_residual: bool = False,
    blurpool: bool = False,
    check: bool = True,
) -> NetworkSpec:
    """The network that the arguments describe, checked without building it.

    Each of block_type, num_blocks_per_stage, num_channels (the stem's first), bottleneck_ratio, group_width,
    strides and se_ratio is one value, or one per stage. What is None comes from the preset, else from
    `DEFAULTS`. `regnet` describes a RegNet by its own parameters (`regnet_description`'s w0, wa, wm,
    depth, group_width, and bottleneck_ratio, se_ratio, stem_width); stem, strides, head and block type may
    still be changed. A preset's widths follow its group width when that is changed, as RegNet's do; widths
    given here never change. `init` None is PyTorch's own for networks of the listing's blocks alone, and
    otherwise that of pycls. `check` False leaves out the check that goes through all layers, for callers that
    count the network right after.

    Raises UserError where a name is unknown, a list has the wrong length, a value is out of range, or widths
    and groups do not fit; the message names the key and what would fit.
    """
    given = {
        "block_type": block_type,
        "num_blocks_per_stage": num_blocks_per_stage,
        "num_channels": num_channels,
        "bottleneck_ratio": bottleneck_ratio,
        "group_width": group_width,
        "strides": strides,
        "se_ratio": se_ratio,
        "stem": stem,
        "head": head,
        "dropout": dropout,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if regnet is not None:
        _check_alone(preset, given)
    base = preset_description(preset) if preset else described_regnet(regnet) if regnet is not None else {}
    values = {**DEFAULTS, **base, **given}
    _check_present(values)
    count = _stage_count(values, num_stages)
    stages = _stage_values(values, given, count, preset)
    stem_width, *widths = stages.pop("num_channels")
    for name in stages["block_type"]:
        get_block(name)
    if preset and num_channels is None:
        widths = _fit_preset_widths(widths, stages)
    _warn_without_effect(given, stages["block_type"], values["head"])
    spec = NetworkSpec(
        stem=StemSpec(
            type=values["stem"], width=stem_width, width_in=_checked("in_channels", in_channels, whole=True)
        ),
        stages=tuple(_stage_specs(widths, stages)),
        head=HeadSpec(
            type=values["head"],
            num_classes=_checked("num_classes", num_classes, whole=True),
            dropout=_checked("dropout", values["dropout"]),
        ),
        init=init or _default_init(stages["block_type"]),
        zero_init_residual=zero_init_residual,
        blurpool=blurpool,
    )
    if check:
        _check_spec(spec)
    return spec


def _check_alone(preset: str | None, given: Mapping[str, Any]) -> None:
    """Nothing else gives the depths and widths that a RegNet's parameters give."""
    changeable = ("block_type", "strides", "stem", "head", "dropout")
    others = [*(["preset"] if preset else []), *(key for key in given if key not in changeable)]
    if others:
        raise UserError(f"regnet gives the network's depths and widths: leave out {', '.join(others)}")


def _check_present(values: Mapping[str, Any]) -> None:
    for key in ("num_blocks_per_stage", "num_channels"):
        if key not in values:
            raise UserError(f"{key} is missing: give it, or name a preset")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _stage_count(values: Mapping[str, Any], num_stages: int | None) -> int:
    """The number of stages: as said, else as many as the first list has values for."""
    if num_stages is not None:
        return int(_checked("num_stages", num_stages, whole=True))
    for key in PER_STAGE:
        if _is_list(values[key]):
            count = max(1, len(values[key]) - (key == "num_channels"))
            return int(_checked("num_stages", count, whole=True))
    raise UserError(
        "num_stages is missing: give it, or give num_blocks_per_stage as a list with one value per stage"
    )


def _stage_values(
    values: Mapping[str, Any], given: Mapping[str, Any], count: int, preset: str | None
) -> dict[str, list[Any]]:
    """Each key's values, one per stage (num_channels: one more, the stem's first)."""
    stages = {}
    for key in PER_STAGE:
        length = count + (key == "num_channels")
        value = values[key]
        items = list(value) if _is_list(value) else [value] * length
        if len(items) != length:
            source = f" (preset '{preset}')" if preset and key not in given else ""
            need = (
                f"{length} (the stem's first, then one per stage)"
                if key == "num_channels"
                else f"{length} or one"
            )
            raise UserError(f"{key}{source} has {len(items)} values; {count} stages need {need}")
        if key != "block_type":
            items = [
                _checked(_item_name(key, value, i), item, key in WHOLE_NUMBERS)
                for i, item in enumerate(items)
            ]
        stages[key] = items
    return stages


def _item_name(key: str, value: Any, index: int) -> str:
    return f"{key}[{index}]" if _is_list(value) else key


def _checked(name: str, value: Any, whole: bool = False) -> Any:
    """`value` when it is a number in the range of its key."""
    key = name.partition("[")[0]
    if value is None and key in DEFAULTS:
        return DEFAULTS[key]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(f"{name} must be {'an integer' if whole else 'a number'}, not {value!r}")
    if whole and value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
    if key == "bottleneck_ratio" and not value > 0:
        raise UserError(f"{name} must be above 0 (below 1 the bottleneck is inverted), not {value}")
    if key == "bottleneck_ratio" and value * MOST[key] < 1:
        raise UserError(f"{name} must be at least 1/{MOST[key]:,}, not {value:g}")
    check_most(name, key, value)
    if key == "se_ratio" and not 0 <= value <= 1:
        raise UserError(f"{name} must be between 0 (no squeeze-excitation) and 1, not {value}")
    if key == "dropout" and not 0 <= value < 1:
        raise UserError(f"{name} must be at least 0 and below 1, not {value}")
    return value


def _fit_preset_widths(widths: list[int], stages: dict[str, list[Any]]) -> list[int]:
    """A preset's widths under a changed group width or ratio, by RegNet's rule; what changes is logged."""
    fitted = list(widths)
    for i, group in enumerate(stages["group_width"]):
        if group is None or stages["block_type"][i] != "bottleneck":
            continue
        ratio = stages["bottleneck_ratio"][i]
        (fitted[i],), (stages["group_width"][i],) = compatible_widths([widths[i]], [ratio], [group])
        if (fitted[i], stages["group_width"][i]) != (widths[i], group):
            logger.info(
                "stage %d of the preset: width %d, group width %d become %d, %d, so that the groups fit",
                *(i + 1, widths[i], group, fitted[i], stages["group_width"][i]),
            )
    return fitted


def _warn_without_effect(given: Mapping[str, Any], block_types: list[str], head: str) -> None:
    """Say which of the user's own settings the chosen parts do not have."""
    for key in BLOCK_OPTIONS:
        value: Any = given.get(key)
        without = [i for i, name in enumerate(block_types) if key not in parameter_names(get_block(name))]
        if _is_list(value):
            for i in without:
                if value[i] not in (None, DEFAULTS[key]):
                    logger.warning("%s[%d] has no effect: block '%s' does not use it", key, i, block_types[i])
        elif value not in (None, DEFAULTS[key]) and len(without) == len(block_types):
            names = ", ".join(sorted(set(block_types)))
            logger.warning("%s has no effect: block '%s' does not use it", key, names)
    if given.get("dropout") and "dropout" not in parameter_names(get_head(head)):
        logger.warning("dropout has no effect: head '%s' does not use it", head)


def _stage_specs(widths: list[int], stages: Mapping[str, list[Any]]) -> list[StageSpec]:
    return [
        StageSpec(
            block_type=stages["block_type"][i],
            depth=stages["num_blocks_per_stage"][i],
            width=width,
            stride=stages["strides"][i],
            bottleneck_ratio=float(stages["bottleneck_ratio"][i]),
            group_width=stages["group_width"][i],
            se_ratio=float(stages["se_ratio"][i]),
        )
        for i, width in enumerate(widths)
    ]


def _default_init(block_types: list[str]) -> Literal["pycls", "torch"]:
    return "torch" if all(name.startswith("listing_") for name in block_types) else "pycls"


def _check_spec(spec: NetworkSpec) -> None:
    """Names exist and widths fit: counting the network goes through every one of its layers."""
    get_stem(spec.stem.type)
    get_head(spec.head.type)
    if spec.init not in ("pycls", "torch"):
        raise unknown_name("init", spec.init, ("pycls", "torch"))
    check_blocks([stage.depth for stage in spec.stages])
    check_parameters(network_complexity(spec).params)


def complexity(resolution: Resolution = 224, **description: Any) -> Complexity:
    """Params, flops and acts of the network that `build_anynet(**description)` would build, which it is not.

    `resolution` is the side of the image, or its height and width. Raises UserError as `network_spec` does.
    """
    return network_complexity(network_spec(**description), resolution)
