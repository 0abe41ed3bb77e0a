"""Draw networks from a design space and see what they cost, without training any.

python examples/explore_space.py configs/sweep/anynetx_a.yaml 5
"""

from __future__ import annotations

import sys
from pathlib import Path

from anynet_dist import build_anynet
from anynet_dist.sweep.sampling import sample
from anynet_dist.sweep.space_file import read_space


def explore(space_file: Path, count: int) -> list[int]:
    """Print `count` networks of a space; returns their parameters."""
    space = read_space(space_file)
    print(f"{space.name}: {space.degrees_of_freedom} degrees of freedom")
    parameters = []
    for found in sample(space, count, seed=0).samples:
        network = build_anynet(**found.model, num_classes=space.num_classes)
        parameters.append(sum(weight.numel() for weight in network.parameters()))
        stages = " | ".join(f"{stage.depth} x {stage.width}" for stage in network.spec.stages)
        print(f"{stages}: {found.complexity.flops / 1e6:,.0f} MFLOPs, {parameters[-1]:,} parameters")
    return parameters


if __name__ == "__main__":
    explore(Path(sys.argv[1]), int(sys.argv[2]))
