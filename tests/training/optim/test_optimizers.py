from typing import Literal

import torch
from torch import nn

from anynet_dist.config.schema import OptimConfig
from anynet_dist.training.optim.optimizers import build_optimizer, parameter_groups
from anynet_dist.training.optim.schedules import set_learning_rate


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_norms_and_biases_are_not_decayed_by_default() -> None:
    network = small_network()
    decayed, undecayed = parameter_groups(network, OptimConfig(weight_decay=0.1))
    assert {id(p) for p in decayed["params"]} == {
        id(network.get_parameter(name)) for name in ("0.weight", "3.weight")
    }
    assert decayed["weight_decay"] == 0.1
    assert undecayed["weight_decay"] == 0
    assert len(undecayed["params"]) == 4


def test_everything_is_decayed_when_asked() -> None:
    (group,) = parameter_groups(small_network(), OptimConfig(decay_norm_and_bias=True))
    assert len(group["params"]) == 6


def test_frozen_parameters_are_left_out() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    groups = parameter_groups(network, OptimConfig())
    assert sum(len(group["params"]) for group in groups) == 4


def test_the_body_may_learn_at_a_share_of_the_heads_rate() -> None:
    network = nn.Module()
    network.stem, network.head = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = build_optimizer(network, OptimConfig(lr=0.1, body_lr_scale=0.1))
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in network.stem.parameters()} == {0.05}
    assert {rates[id(p)] for p in network.head.parameters()} == {0.5}


def test_adamw_shrinks_weights_and_adam_adds_to_the_gradient() -> None:
    def step_without_gradient(name: Literal["adam", "adamw"]) -> torch.Tensor:
        layer = nn.Linear(2, 2, bias=False)
        nn.init.ones_(layer.weight)
        optimizer = build_optimizer(layer, OptimConfig(name=name, lr=0.1, weight_decay=0.5))
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        return layer.weight.detach()

    assert torch.allclose(step_without_gradient("adamw"), torch.full((2, 2), 0.95))
    assert torch.allclose(step_without_gradient("adam"), torch.full((2, 2), 0.9))


def test_sgd_takes_a_nesterov_step() -> None:
    layer = nn.Linear(1, 1, bias=False)
    start = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, OptimConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0))
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert torch.allclose(layer.weight, start - 0.1 * (1 + 0.9))
