"""A network as text: its stages, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from anynet_dist.sweep.population import Member, Stage


def sketch(member: Member) -> str:
    """One line of a network: what each stage has, and what it costs: `3 x bottleneck 64 (b 2, g 8) | ...`."""
    cost = ", ".join(
        f"{shown(value)} {measure}" for measure, value in member.complexity.items() if value is not None
    )
    return f"{sketch_stages(member.stages)}   [{cost}]"


def sketch_stages(stages: Sequence[Stage]) -> str:
    """The stages, from the stem to the head."""
    return " | ".join(_stage(stage) for stage in stages)


def shown(value: float) -> str:
    """A count with its unit: 4,200,000 is 4.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _stage(stage: Stage) -> str:
    more = [f"b {stage.bottleneck_ratio:g}"] if stage.bottleneck_ratio not in (None, 1) else []
    more += [f"g {stage.group_width}"] if stage.group_width is not None else []
    width = "" if stage.width is None else f" {stage.width}"
    return f"{stage.depth} x {stage.block}{width}" + (f" ({', '.join(more)})" if more else "")
