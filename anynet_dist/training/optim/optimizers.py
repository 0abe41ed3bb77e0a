"""Optimizers, with weight decay only where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anynet_dist.config.schema import OptimConfig
from anynet_dist.system.errors import UserError


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by weight decay and by `lr_scale`, their share of the learning rate.

    A parameter of fewer than two dimensions is a bias or belongs to a normalisation layer, which are not
    decayed by default (Goyal et al., 2017, section 5.3, and Jia et al., 2018, section 3.2). Raises UserError
    where a part of a name in `no_decay` occurs in no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in config.no_decay:
        if not any(part in name for name in names):
            raise UserError(
                f"optim.no_decay: no parameter's name contains '{part}'; some names: {', '.join(names[:5])}"
            )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 or config.decay_norm_and_bias
        decays = decays and not any(part in name for part in config.no_decay)
        scale = 1.0 if name.startswith("head.") else config.body_lr_scale
        groups.setdefault((config.weight_decay if decays else 0.0, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, config: OptimConfig, fused: bool = False) -> torch.optim.Optimizer:
    """The optimizer of `config` over the model's trainable parameters.

    `fused` takes torch's single-kernel implementation; it must be off under a gradient scaler, because
    the fused step hides from the scaler's caller whether a step was skipped.
    """
    groups = parameter_groups(model, config)
    assert config.lr is not None
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    optimizer_class = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return optimizer_class(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
