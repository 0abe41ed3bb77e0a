"""Stochastic depth: in training, residual blocks leave out their branch at random, image by image."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from anynet_dist.models.anynet import AnyNet
from anynet_dist.system.errors import UserError


def drop_branches(network: AnyNet, probability: float) -> None:
    """Let block l of L leave out its branch with l / L of the probability, and scale what stays.

    The linear rule of Huang et al. (2016), "Deep networks with stochastic depth", equation 4; L counts the
    blocks with a residual, which name the last norm of their branch in `residual_norm`. Weights keep their
    names, copies of the network do as it does, and in evaluation nothing changes. Raises UserError where no
    block has a residual.
    """
    if not probability:
        return
    norms = [
        block.get_submodule(name)
        for block in network.modules()
        if (name := getattr(block, "residual_norm", None)) is not None
    ]
    if not norms:
        raise UserError("train.stochastic_depth: no block of this network has a residual: leave it out")
    for number, norm in enumerate(norms, 1):
        norm.register_forward_hook(partial(_drop, probability * number / len(norms)))


def _drop(probability: float, norm: nn.Module, inputs: Any, branch: Tensor) -> Tensor:
    """A branch (N, C, H, W) with a share of its images at 0, and the others scaled up to make up for it."""
    from torchvision.ops import stochastic_depth  # takes as long as torch itself to import

    dropped: Tensor = stochastic_depth(branch, probability, "row", norm.training)
    return dropped
