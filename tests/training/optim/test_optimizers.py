from typing import Any, Literal

import pytest
import torch
from torch import nn

from anynet_dist.config import schema
from anynet_dist.config.schema import OptimConfig
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import Registry, is_own
from anynet_dist.training.optim import losses, schedules
from anynet_dist.training.optim.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    optimizer_problems,
    parameter_groups,
    register_optimizer,
)
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


def test_the_config_knows_the_names_of_what_is_built_in() -> None:
    registered: list[Registry[Any]] = [OPTIMIZERS, schedules.SCHEDULES, losses.LOSSES]
    named = (schema.OPTIMIZERS, schema.SCHEDULES, schema.LOSSES)
    for registry, names in zip(registered, named, strict=True):
        assert {name for name, part in registry.items() if is_own(part)} == set(names)


def problems(**options: Any) -> list[str]:
    return [str(problem) for problem in optimizer_problems(OptimConfig(lr=0.1, **options))]


@pytest.mark.parametrize("name", ["torch:RAdam", "torch:Adagrad", "torch:Rprop", "timm:lamb", "timm:lion"])
def test_optimizers_of_torch_and_timm_train_and_their_state_is_restored(name: str) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network, images = small_network(), torch.randn(8, 3, 3, 3)
    config = OptimConfig(name=name, lr=0.01, weight_decay=0.1)
    assert not problems(name=name)
    optimizer = build_optimizer(network, config)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1, 0.0}

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), torch.arange(8) % 2)
        loss.backward()
        optimizer.step()
        return loss.item()

    first = [step() for _ in range(20)]
    assert first[-1] < first[0]
    again = build_optimizer(network, config)
    again.load_state_dict(optimizer.state_dict())
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_options_reach_the_optimizer() -> None:
    config = OptimConfig(name="torch:RAdam", lr=1.0, options={"betas": [0.5, 0.6], "eps": 1e-3})
    (group, _) = build_optimizer(small_network(), config).param_groups
    assert (group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3)
    amsgrad = build_optimizer(small_network(), OptimConfig(name="adamw", lr=1.0, options={"amsgrad": True}))
    assert amsgrad.defaults["amsgrad"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "sdg"},
            "optim.name: unknown optimizer 'sdg'; did you mean 'sgd'? (allowed: adam, adamw, sgd)",
        ),
        (
            {"name": "torch:RAdm"},
            "optim.name: unknown optimizer of torch.optim 'RAdm'; did you mean 'RAdam'?",
        ),
        ({"name": "torch:LBFGS"}, "optim.name: torch:LBFGS computes the loss several times in one step"),
        ({"name": "torch:SparseAdam"}, "optim.name: torch:SparseAdam is for sparse gradients"),
        ({"name": "timm:lam"}, "optim.name: unknown optimizer of timm 'lam'; did you mean 'lamb'?"),
        ({"name": "timm:adahessian"}, "optim.name: timm:adahessian needs second derivatives"),
        (
            {"name": "torch:RMSprop", "options": {"alpa": 1}},
            "optim.options.alpa: torch:RMSprop has no such option; did you mean 'alpha'? (allowed: alpha, ",
        ),
        ({"options": {"momentum": 1}}, "optim.options.momentum: set optim.momentum in its place"),
        (
            {"name": "torch:RAdam", "options": {"weight_decay": 1}},
            "optim.options.weight_decay: set optim.weight_decay in its place",
        ),
        ({"options": {"fused": True}}, "optim.options.fused: is not for you to set: the run decides it"),
        (
            {"options": {"params": 1}},
            "optim.options.params: is not for you to set: the run decides it",
        ),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_said(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("timm")
    (problem,) = problems(**options)
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "torch:Muon"}, r"torch:Muon cannot be made: ValueError: .*2D"),
        ({"name": "torch:RAdam", "options": {"betas": 3}}, r"torch:RAdam cannot be made: TypeError"),
        ({"options": {"dampening": 0.5}}, r"sgd cannot be made: ValueError: Nesterov"),
    ],
)
def test_values_that_an_optimizer_refuses_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"optim\.name: " + message):
        build_optimizer(small_network(), OptimConfig(lr=0.1, **options))


def test_weight_decay_without_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    build_optimizer(small_network(), OptimConfig(name="torch:Rprop", lr=0.1))
    assert "optim.weight_decay has no effect: torch:Rprop decays no weights" in caplog.text


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda params, lr: None, "must make a torch.optim.Optimizer, not a NoneType"),
        (
            lambda params, lr: torch.optim.SGD(
                [weight for group in params for weight in group["params"]], lr
            ),
            "must keep the groups of parameters",
        ),
        (lambda params, lr: torch.optim.SGD(params[:1], lr), "must keep the groups of parameters"),
        (lambda params, lr: torch.optim.LBFGS(params[:1], lr), "computes the loss several times"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused(make: Any, message: str) -> None:
    register_optimizer("mine")(make)
    with pytest.raises(UserError, match=rf"optim\.name: mine {message}"):
        build_optimizer(small_network(), OptimConfig(name="mine", lr=0.1))


@pytest.mark.usefixtures("registries")
def test_one_that_asks_for_fused_is_told() -> None:
    @register_optimizer("told")
    def told(params: Any, lr: float, fused: bool = False) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr, fused=fused)

    for fused in (True, False):
        optimizer = build_optimizer(small_network(), OptimConfig(name="told", lr=0.1), fused)
        assert all(bool(group["fused"]) is fused for group in optimizer.param_groups)


def test_a_wrong_signature_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"optimizer 'x' must take \(params, lr, ...\) first; it takes \(lr\)"
    ):
        register_optimizer("x")(lambda lr: torch.optim.SGD([], lr))
    with pytest.raises(UserError, match=r"must be a subclass of torch\.optim\.Optimizer or a function"):
        register_optimizer("x")(nn.Linear)  # type: ignore[type-var]
