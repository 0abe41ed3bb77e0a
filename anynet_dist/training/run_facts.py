"""What a run decided and found when it started, for trackers to show beside its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anynet_dist.data.loaders.base import Loader
from anynet_dist.models.complexity import Complexity, part_complexities
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.network_file import NetworkDescription
from anynet_dist.runs.trackers import RunFacts
from anynet_dist.runs.trackers.base import markdown_table
from anynet_dist.training.checkpointing import RunState
from anynet_dist.training.task import Task

FROM_ENVIRONMENT = ("versions", "commit", "platform", "device", "gpu")


def run_facts(
    spec: NetworkSpec,
    state: RunState,
    loaders: Mapping[str, Loader],
    folder: RunFolder,
    description: NetworkDescription,
    task: Task,
) -> RunFacts:
    """Size of the network for evaluated images, its stages, what was chosen, versions and commit."""
    side = description.resolution
    parts = part_complexities(spec, side)
    chosen = {key: value for key, value in asdict(state.context).items() if key != "data"}
    environment = json.loads(folder.environment.read_bytes()) if folder.environment.exists() else {}
    derived: dict[str, Any] = {
        "params": sum(part.params for part in parts),
        "flops": _sum([part.flops for part in parts]),
        "acts": _sum([part.acts for part in parts]),
        "resolution": side,
        "stem_width": spec.stem.width,
        "widths": [stage.width for stage in spec.stages],
        "depths": [stage.depth for stage in spec.stages],
        **chosen,
        "loader": loaders["train"].name,
        **{key: environment[key] for key in FROM_ENVIRONMENT if key in environment},
    }
    depths = [1, *(stage.depth for stage in spec.stages), 1]
    kinds = [spec.stem.type, *(stage.block_type for stage in spec.stages), spec.head.type]
    columns = ("part", "type", "depth", "output", "params", "flops", "acts")
    rows = [
        (part.name, kind, depth, f"{part.channels}x{part.height}x{part.width}", *_costs(part))
        for part, kind, depth in zip(parts, kinds, depths, strict=True)
    ]
    score = f"val/{'ema_' if state.average else ''}{task.metric}"
    return RunFacts(derived=derived, network=markdown_table(columns, rows), score=score)


def _costs(part: Complexity) -> tuple[str, ...]:
    return tuple("unknown" if cost is None else f"{cost:,}" for cost in (part.params, part.flops, part.acts))


def _sum(costs: list[int | None]) -> int | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
