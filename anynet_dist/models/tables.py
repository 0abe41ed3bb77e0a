"""What a network and each part of it cost, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anynet_dist.models.complexity import PartComplexity
from anynet_dist.models.memory import Optimizer, TrainingMemory
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.system.ranges import Precision

if TYPE_CHECKING:
    from rich.table import Table


def total_cost(parts: list[PartComplexity]) -> dict[str, int | None]:
    """Params, flops and acts of all parts together; None where a part's are unknown."""
    costs = {name: [getattr(part, name) for part in parts] for name in ("params", "flops", "acts")}
    return {name: None if None in values else sum(values) for name, values in costs.items()}


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def parts_table(name: str, spec: NetworkSpec, parts: list[PartComplexity]) -> Table:
    """A row for the stem, each stage and the head: what it is, its output and its costs."""
    table = plain_table(name, "what", "output", "params", "flops", "acts", "sees (px)")
    table.columns[1].justify = "left"
    for part, what in zip(parts, _descriptions(spec), strict=True):
        output = f"{part.channels}x{part.height}x{part.width}"
        costs = (part.params, part.flops, part.acts)
        table.add_row(part.name, what, output, *map(_number, costs), _number(part.receptive_field))
    table.add_section()
    table.add_row("total", "", "", *map(_number, total_cost(parts).values()), "")
    return table


def _descriptions(spec: NetworkSpec) -> list[str]:
    """One line about the stem, each stage and the head; what the default leaves out is left out."""
    stages = []
    for stage in spec.stages:
        shape = {"b": stage.bottleneck_ratio, "g": stage.group_width, "se": stage.se_ratio}
        default = {"b": 1.0, "g": None, "se": 0.0}
        options = [f"{key}={value:g}" for key, value in shape.items() if value != default[key]]
        stages.append(" ".join([f"{stage.depth} x {stage.block_type}", f"/{stage.stride}", *options]))
    return [spec.stem.type, *stages, spec.head.type]


def memory_table(memory: Mapping[Precision, TrainingMemory], batch: int, optimizer: Optimizer) -> Table:
    """What training on `batch` images at a time takes, in MiB, a column for each precision."""
    columns = (f"{precision} (MiB)" for precision in memory)
    table = plain_table(f"training, {batch} images at a time", *columns)
    rows = {
        "weights": "weights",
        "gradients": "gradients",
        "optimizer": f"optimizer ({optimizer})",
        "weight_copies": "16-bit weights",
        "activations": "activations",
        "recomputed": "of a checkpointed block",
        "total": "total",
    }
    if not any(each.recomputed for each in memory.values()):
        del rows["recomputed"]
    for key, label in rows.items():
        table.add_row(label, *(f"{getattr(each, key) / 2**20:,.1f}" for each in memory.values()))
    return table


def networks_table(rows: list[dict[str, Any]]) -> Table:
    """A row for each network by name: size of its images, costs, and published top-1 accuracy."""
    table = plain_table("name", "px", "params (M)", "flops (G)", "acts (M)", "top-1")
    table.add_column("published by", no_wrap=True)
    for row in rows:
        costs = (row["params"] / 1e6, row["flops"] / 1e9, row["acts"] / 1e6)
        top1 = f"{row['top1']:.2%}" if row["top1"] else ""
        sizes = (str(row["resolution"]), *(f"{cost:,.2f}" for cost in costs))
        table.add_row(row["name"], *sizes, top1, row["top1_source"])
    return table


def peaks_table(rows: list[dict[str, Any]], kinds: Sequence[str]) -> Table:
    """A row for each network and batch: the memory of training, a column for each kind of it."""
    table = plain_table("peak memory (GiB)", "px", "batch", *kinds)
    for row in rows:
        peaks = ("unknown" if row[kind] is None else f"{row[kind] / 2**30:,.2f}" for kind in kinds)
        table.add_row(row["name"], str(row["resolution"]), f"{row['batch']:,}", *peaks)
    return table


def plain_table(first: str, *others: str) -> Table:
    """A table with one column for names and others for numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def table_text(table: Table, note: str = "") -> str:
    """The whole table as the terminal shows it, though it be wider, and a note below it."""
    from rich.console import Console

    console = Console(highlight=False)
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    with console.capture() as captured:
        console.print(table)
        if note:
            console.print(f"  {note}")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
