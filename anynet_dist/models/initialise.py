"""How a network's weights start.

The parts (stem, blocks, head) whose constructor is ours are drawn here. A part that a user's own constructor
made keeps the initialisation it came with, whatever it inherits; one that wants ours asks for it, with
`initialise_like_pycls(self)` at the end of its constructor.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

from torch import nn

from anynet_dist.system.errors import UserError

OUR_PACKAGE = __name__.partition(".")[0]


def initialise_our_parts(parts: Iterable[nn.Module]) -> None:
    """`initialise_like_pycls` for those of a network's parts that our own constructors have made."""
    for part in parts:
        if is_ours(type(part)):
            initialise_like_pycls(part)


def is_ours(part: type[nn.Module]) -> bool:
    """Whether a constructor of this package makes the part; a subclass without its own inherits one."""
    module = inspect.unwrap(part.__init__).__module__
    return module.partition(".")[0] == OUR_PACKAGE


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
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def zero_residual_norms(network: nn.Module) -> None:
    """Start residual blocks as the identity (Goyal et al., 2017, section 5.1).

    A block names the batch norm that ends its residual branch in `residual_norm`. Raises UserError where
    the layer of that name has no weight.
    """
    for block in network.modules():
        name = getattr(block, "residual_norm", None)
        if name is None:
            continue
        weight = getattr(getattr(block, name, None), "weight", None)
        if weight is None:
            raise UserError(
                f"zero_init_residual: block {type(block).__name__} sets residual_norm = '{name}', which has"
                " no weight: set residual_norm to the name of its last norm, or to None"
            )
        nn.init.zeros_(weight)
