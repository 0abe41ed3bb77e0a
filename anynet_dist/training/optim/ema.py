"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class WeightAverage:
    """Keeps `module`, a copy of a network whose weights trail the original's.

    Floating-point parameters and buffers follow with `decay`; integer buffers are copied. With `warmup`
    the n-th update uses min(decay, (1 + n) / (10 + n)), so that the random first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float, every: int = 1, warmup: bool = True) -> None:
        self.module = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay**every
        self.every = every
        self.warmup = warmup
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards `network`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        self.updates += 1
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        floating = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_([pair[0] for pair in floating], [pair[1] for pair in floating], 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
