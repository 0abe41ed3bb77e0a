"""How a network's weights start."""

from __future__ import annotations

import math

from torch import nn


def initialise_like_pycls(network: nn.Module) -> None:
    """Convolutions from N(0, sqrt(2 / fan_out)), linear layers from N(0, 0.01) with zero bias, as pycls does.

    fan_out = kernel height x kernel width x output channels, whatever the groups. Batch norm stays as PyTorch
    makes it: weight 1, bias 0.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def zero_residual_norms(network: nn.Module) -> None:
    """Start residual blocks as the identity (Goyal et al., 2017, section 5.1).

    A block names the batch norm that ends its residual branch in `residual_norm`.
    """
    for block in network.modules():
        name = getattr(block, "residual_norm", None)
        if name is not None:
            nn.init.zeros_(getattr(block, name).weight)
