"""Descriptions of networks beyond all bounds are refused before anything is counted for ages or allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from anynet_dist.models.anynet import anynet_from_params, build_anynet
from anynet_dist.models.complexity import check_resolution, network_complexity
from anynet_dist.models.memory import training_memory
from anynet_dist.models.regnet import regnet_description
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.runs.network_file import NetworkDescription, load_network, save_network
from anynet_dist.system.errors import UserError

SMALL: dict[str, Any] = {"num_blocks_per_stage": [1, 1], "num_channels": [8, 8, 16], "strides": [1, 2]}
PRIME = 1_048_573
"""The largest prime below 2**20, which no group width divides."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_blocks_per_stage": [10**9, 1]},
            r"num_blocks_per_stage\[0\] must be at most 10,000, not 1,000,",
        ),
        ({"num_blocks_per_stage": [10_000, 1]}, "10,001 blocks in all are more than the 10,000 allowed"),
        (
            {"num_channels": [8, 10**12, 8]},
            r"num_channels\[1\] must be at most 1,048,576, not 1,0",
        ),
        ({"num_channels": [8, 2**20, 2**20]}, r"has [\d,]+ parameters, more than the 20,000,000,000 allowed"),
        ({"group_width": 10**9}, "group_width must be at most 1,048,576"),
        ({"num_channels": [8, PRIME, 8], "group_width": 2}, f"num_channels {PRIME - 1} or {PRIME + 1}"),
        ({"num_channels": [8, PRIME, 8], "bottleneck_ratio": 2**-10, "group_width": 7}, "does not divide"),
        ({"bottleneck_ratio": 1e-300}, "bottleneck_ratio must be at least 1/1,024, not 1e-300"),
        ({"bottleneck_ratio": float("inf")}, "bottleneck_ratio must be at most 1,024, not inf"),
        ({"num_classes": 10**12}, "num_classes must be at most 10,000,000"),
        ({"in_channels": 10**12}, "in_channels must be at most 1,048,576"),
        ({"strides": 10**9}, "strides must be at most 16,384"),
        (
            {"num_stages": 10**9, "num_blocks_per_stage": 1, "num_channels": 8, "strides": 1},
            "num_stages must be at most 64",
        ),
        (
            {"num_blocks_per_stage": [1] * 65, "num_channels": 8, "strides": 1},
            "num_stages must be at most 64",
        ),
    ],
)
def test_a_network_beyond_all_bounds_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network_spec(**{**SMALL, **changes})


@pytest.mark.skipif(psutil.virtual_memory().total > 70 * 2**30, reason="the weights do fit into the memory")
def test_weights_that_do_not_fit_into_the_memory_are_refused_before_they_are_built() -> None:
    wide = {**SMALL, "block_type": "vgg", "num_channels": [8, 46_000, 46_000]}
    with pytest.raises(UserError, match=r"parameters need 71 GiB, but this machine has \d+ GiB of memory"):
        build_anynet(**wide)
    with torch.device("meta"):  # takes no memory
        assert build_anynet(**wide).head is not None


def test_a_received_weight_file_cannot_ask_for_more(tmp_path: Path) -> None:
    model = {**SMALL, "num_blocks_per_stage": [10**9, 1], "num_classes": 3}
    network = build_anynet(**SMALL, num_classes=3)
    save_network(tmp_path / "model.safetensors", network, NetworkDescription(model=model))
    with pytest.raises(UserError, match="must be at most 10,000"):
        load_network(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "numbers",
    [{"depth": 10**9}, {"wa": 1e300}, {"w0": 8 * 10**9}],
)
def test_a_regnet_beyond_all_bounds_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"blocks in all are more|width of the last block must be at most"):
        regnet_description(**{"w0": 8, "wa": 1, "wm": 2, "depth": 3, "group_width": 8, **numbers})


def test_a_listed_network_of_too_many_stages_is_refused() -> None:
    params = {"block_type": "vgg", "num_stages": 10**9, "num_blocks_per_stage": 1, "num_channels": 8}
    with pytest.raises(UserError, match="num_stages must be at most 64"):
        anynet_from_params({**params, "bottleneck_ratio": 1, "group_width": 1})


def test_images_and_batches_beyond_all_bounds_are_refused() -> None:
    spec = network_spec(**SMALL)
    for use in (check_resolution, network_complexity, training_memory):
        with pytest.raises(UserError, match="a resolution must be at most 16,384 pixels, not 10,000,000"):
            use(spec, 10**7)
    with pytest.raises(UserError, match="at most 16,777,216 images, not 1,000,000,000,000,000"):
        training_memory(spec, 32, batch_size=10**15)


def test_the_largest_published_network_is_within_the_bounds() -> None:
    widths = [2 * width for width in (528, 1056, 2904, 7392)]  # each at least RegNetY-10B's
    spec = network_spec(
        num_blocks_per_stage=[2, 7, 17, 1], num_channels=[32, *widths], group_width=264, se_ratio=0.25
    )
    assert network_complexity(spec).params > 2 * 10**9
