from __future__ import annotations

from typing import Any

import pytest
import torch

from anynet_dist.models import build_anynet, network_complexity, network_spec, training_memory
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision

MIXED: dict[str, Any] = {
    "block_type": ["bottleneck", "basic", "inception"],
    "num_blocks_per_stage": [1, 2, 1],
    "num_channels": [8, 16, 24, 32],
    "se_ratio": 0.25,
    "stem": "conv3x3_maxpool",
    "num_classes": 10,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_is_what_a_real_forward_pass_keeps(precision: Precision) -> None:
    network = build_anynet(**MIXED).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor.detach()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        output = network(torch.randn(4, 3, 37, 41))
    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert output.requires_grad
    memory = training_memory(network.spec, (37, 41), 4, precision)
    assert memory.activations + memory.weight_copies == seen


def test_by_hand() -> None:
    """A 3x3 convolution from 3 to 8 channels keeps images, its output (in batch norm), and ReLU's output."""
    description: dict[str, Any] = {
        "block_type": "vgg",
        "num_blocks_per_stage": [1],
        "num_channels": [8, 8],
        "strides": 1,
        "stem": "conv3x3_s1",
        "head": "features",
    }
    spec = network_spec(**description)
    params = 8 * 3 * 9 + 8 * 8 * 9 + 4 * 8
    fp32 = training_memory(spec, 10, batch_size=2, optimizer="adamw")
    assert fp32.weights == 4 * (params + 4 * 8) + 2 * 8  # running means and variances, two batch counters
    assert (fp32.gradients, fp32.optimizer, fp32.weight_copies) == (4 * params, 8 * params, 0)
    maps, statistics = 2 * 100 * (3 + 4 * 8), 4 * 8
    assert fp32.activations == 4 * (maps + statistics)
    assert fp32.total == fp32.weights + 12 * params + fp32.activations
    bf16 = training_memory(spec, 10, batch_size=2, precision="bf16")
    assert bf16.activations == 2 * maps + 4 * statistics
    assert bf16.weight_copies == 2 * (params - 4 * 8)


def test_optimizer_keeps_one_or_two_numbers_a_parameter() -> None:
    spec = network_spec(**MIXED)
    params = network_complexity(spec).params
    assert [training_memory(spec, 32, 2, optimizer=name).optimizer for name in ("sgd", "adam")] == [
        4 * params,
        8 * params,
    ]


@pytest.mark.parametrize(
    ("batch", "message"), [(0, "at least 1 image, not 0"), (1, "cannot train on images")]
)
def test_batches_that_cannot_be_trained_on(batch: int, message: str) -> None:
    spec = network_spec(preset="regnetx_200mf")
    with pytest.raises(UserError, match=message):
        training_memory(spec, 32, batch)
