"""What a part costs that does not count itself: seen by hooks while it runs on one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from anynet_dist.models.blurpool import BlurredConv2d, add_blurpool
from anynet_dist.models.registry import Part

POOLING = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d


@dataclass(frozen=True, slots=True)
class Measured:
    """A part's cost for one image, and the feature map (channels, height, width) that it gives."""

    params: int
    flops: int | None
    """None, as `acts`, where hooks did not see every multiplication of matrices."""
    acts: int | None
    shape: tuple[int, int, int]


def counts_itself(part: Part) -> bool:
    """Whether the part has a `complexity` that was written for its constructor and its forward, not for those
    of a class that it inherits from."""
    return hasattr(part, "complexity") and _level(part, "complexity") <= min(
        _level(part, "__init__"), _level(part, "forward")
    )


def _level(part: Part, name: str) -> int:
    """How far up in the order of inheritance the method is defined; 0 is the class itself."""
    return next(level for level, parent in enumerate(part.__mro__) if name in vars(parent))


def measure_part(
    part: Part,
    shape: tuple[int, int, int],
    arguments: Sequence[int],
    options: Mapping[str, Any],
    blurpool: bool = False,
) -> Measured:
    """Build the part for feature maps of `shape` and run it: on the meta device, which computes shapes alone,
    or on the CPU where its code wants values. With `blurpool` its strided convolutions blur first.

    Raises RuntimeError or ValueError where it cannot run there.
    """
    try:
        with torch.device("meta"):
            return _run(_build(part, shape[0], arguments, options, blurpool), torch.empty(1, *shape))
    except (RuntimeError, ValueError):
        # Without it the part would take random numbers from the network that is to be built.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return _run(_build(part, shape[0], arguments, options, blurpool), torch.zeros(1, *shape))


def _build(
    part: Part, channels: int, arguments: Sequence[int], options: Mapping[str, Any], blurpool: bool
) -> nn.Module:
    module = part(channels, *arguments, **options)
    if blurpool:
        add_blurpool(module)
    return module


def _run(module: nn.Module, image: Tensor) -> Measured:
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which few commands need

    seen = {"products": 0, "biases": 0, "acts": 0}

    def see(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(layer, BlurredConv2d):
            seen["products"] += 9 * inputs[0].numel()
            seen["acts"] += inputs[0].numel()
        count = (output if isinstance(output, Tensor) else output[0]).numel()
        seen["acts"] += count
        if isinstance(layer, _ConvNd | nn.Linear):
            seen["products"] += layer.weight[0].numel() * count
            seen["biases"] += (layer.bias is not None) * count

    hooks = [layer.register_forward_hook(see) for layer in module.eval().modules() if _is_counted(layer)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = module(image)
    for hook in hooks:
        hook.remove()
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise ValueError("it gives no feature map (N, C, H, W), nor features (N, C)")
    complete = counter.get_total_flops() == 2 * seen["products"]
    channels, height, width = (*output.shape[1:], 1, 1)[:3]
    return Measured(
        params=sum(parameter.numel() for parameter in module.parameters()),
        flops=seen["products"] + seen["biases"] if complete else None,
        acts=seen["acts"] if complete else None,
        shape=(channels, height, width),
    )


def _is_counted(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd | nn.Linear | POOLING) and not isinstance(layer, _ConvTransposeNd)
