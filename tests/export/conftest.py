from pathlib import Path

import pytest
import torch
from torch import nn

from anynet_dist.export.trained import TrainedNetwork, open_trained
from anynet_dist.models.anynet import build_anynet
from anynet_dist.training.weights import NetworkDescription, save_network


def randomise_norms(network: nn.Module) -> None:
    """Batch norm as after training: nothing about it is 0 or 1."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    """A weight file of a small network with squeeze-excitation, groups and a max-pooling, on 24x24 images."""
    torch.manual_seed(0)
    description = NetworkDescription(
        model={
            "num_blocks_per_stage": [1, 2],
            "num_channels": [8, 8, 16],
            "group_width": 4,
            "se_ratio": 0.25,
            "stem": "conv3x3_maxpool",
            "num_classes": 3,
        },
        classes=("cat", "dog", "rat"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        resolution=24,
        crop_ratio=0.875,
    )
    network = build_anynet(**description.model)
    randomise_norms(network)
    nn.init.normal_(network.head.fc.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    facts = {"epoch": 7, "weights": "ema", "test/ema_top1": 0.5, "test/ema_top5": 1.0, "test/ema_loss": 1.25}
    save_network(tmp_path / "model.safetensors", network, description, **facts)
    return tmp_path / "model.safetensors"


@pytest.fixture
def trained(network_file: Path) -> TrainedNetwork:
    """The network of that file."""
    return open_trained(network_file)
