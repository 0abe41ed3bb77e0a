"""How large a network may be described: beyond every network that was ever trained in this space, and small
enough to be counted at once. The largest published one, RegNetY-10B, has 10 billion parameters."""

from __future__ import annotations

import psutil

from anynet_dist.system.errors import UserError

MOST = {
    "num_stages": 64,
    "num_blocks_per_stage": 10_000,
    "num_channels": 2**20,
    "bottleneck_ratio": 2**10,
    "group_width": 2**20,
    "strides": 2**14,
    "num_classes": 10**7,
    "in_channels": 2**20,
}
MOST_BLOCKS = 10_000
MOST_PARAMETERS = 20 * 10**9
MOST_SIDE = 2**14
"""Side of an image in pixels."""
MOST_BATCH = 2**24
"""Images at a time."""


def check_most(name: str, key: str, value: float) -> None:
    """Raises UserError where the value `name` of the kind `key` is larger than any sensible one."""
    if key in MOST and value > MOST[key]:
        raise UserError(f"{name} must be at most {MOST[key]:,}, not {value:,}")


def check_blocks(depths: list[int]) -> None:
    """Raises UserError where stages have too many blocks in all."""
    if sum(depths) > MOST_BLOCKS:
        raise UserError(
            f"num_blocks_per_stage: {sum(depths):,} blocks in all are more than the {MOST_BLOCKS:,} allowed"
        )


def check_parameters(params: int) -> None:
    """Raises UserError where a network has more parameters than any that could be trained here."""
    if params > MOST_PARAMETERS:
        raise UserError(
            f"the network has {params:,} parameters, more than the {MOST_PARAMETERS:,} allowed: "
            "lower num_channels, num_blocks_per_stage or num_classes"
        )


def check_memory(params: int) -> None:
    """Raises UserError where the weights alone do not fit into this machine."""
    needed, memory = 4 * params, psutil.virtual_memory().total
    if needed > memory:
        raise UserError(
            f"the network's {params:,} parameters need {needed / 2**30:,.0f} GiB, but this machine has "
            f"{memory / 2**30:,.0f} GiB of memory: lower num_channels, num_blocks_per_stage or num_classes"
        )


def check_side(side: int) -> None:
    """Raises UserError where images are larger than any network here could be run on."""
    if side > MOST_SIDE:
        raise UserError(f"a resolution must be at most {MOST_SIDE:,} pixels, not {side:,}")
