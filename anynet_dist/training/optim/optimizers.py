"""Optimizers by name, with weight decay only where it belongs.

An optimizer is a class, or a function that makes one, registered under a name:

    @register_optimizer("mine")
    class Mine(torch.optim.Optimizer):
        def __init__(self, params, lr, momentum=0.9, weight_decay=0.0): ...

It takes `(params, lr)` first, its other arguments come from `optim.options`. `params` are groups, each with
its `weight_decay` and its `lr_scale`. One that asks for `fused` by name is told whether torch's fused kernels
can be used, which leave out steps that are not finite.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import nn

from anynet_dist.config.errors import Problem
from anynet_dist.config.schema import OptimConfig
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.registry import Registry
from anynet_dist.training.optim.chosen import fitted, option_problems, wanted

logger = logging.getLogger(__name__)

MakeOptimizer = Callable[..., torch.optim.Optimizer]
Registered = TypeVar("Registered", bound=MakeOptimizer)

OPTIMIZERS: Registry[MakeOptimizer] = Registry(
    "optimizer",
    first=("params", "lr"),
    passed=("fused",),
    base=torch.optim.Optimizer,
    functions=True,
    free=True,
)
FIELDS = {"sgd": ("momentum", "nesterov"), "adam": ("betas", "eps"), "adamw": ("betas", "eps")}
"""The options of ours that set arguments of ours."""
ELEMENTWISE = {
    f"torch:{name}"
    for name in (
        *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax"),
        *("NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    )
}
"""Optimizers that update each weight by its own gradients alone, so that weights can be cut into shards."""
SPARSE_ONLY = ("SparseAdam",)


def register_optimizer(name: str, *, elementwise: bool = False) -> Callable[[Registered], Registered]:
    """Register an optimizer, a class or a function that makes one, under `name`.

    `elementwise` says that it updates each weight by its own gradients alone: DeepSpeed and FSDP2 need that.
    """

    def register(optimizer: Registered) -> Registered:
        OPTIMIZERS.register(name)(optimizer)
        if elementwise:
            ELEMENTWISE.add(name)
        else:
            ELEMENTWISE.discard(name)
        return optimizer

    return register


@register_optimizer("sgd", elementwise=True)
def sgd(
    params: Any, lr: float, momentum: float, nesterov: bool, dampening: float = 0.0, fused: bool = False
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    nesterov = nesterov and momentum > 0
    return torch.optim.SGD(
        params, lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov, fused=fused
    )


@register_optimizer("adam", elementwise=True)
def adam(
    params: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    amsgrad: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Adam, which adds the weight decay to the gradient."""
    return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=fused)


@register_optimizer("adamw", elementwise=True)
def adamw(
    params: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    amsgrad: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Adam with weight decay apart from the gradient."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=fused)


def find_optimizer(name: str) -> MakeOptimizer:
    """What makes the optimizer called `name`: a registered one, torch:NAME or timm:NAME.

    Raises UserError where there is none, or none that this training can use.
    """
    library, colon, inner = name.partition(":")
    if colon and library == "torch":
        return _torch_optimizer(inner)
    if colon and library == "timm":
        return _timm_optimizer(inner)
    return OPTIMIZERS.find(name)


def _torch_optimizer(name: str) -> type[torch.optim.Optimizer]:
    classes = {
        each: found
        for each, found in vars(torch.optim).items()
        if inspect.isclass(found)
        and issubclass(found, torch.optim.Optimizer)
        and found is not torch.optim.Optimizer
    }
    if name in SPARSE_ONLY:
        raise UserError(f"torch:{name} is for sparse gradients, and those of images are dense")
    if name in classes:
        _check_step(classes[name], f"torch:{name}")
        return classes[name]
    usable = [
        each for each, found in classes.items() if each not in SPARSE_ONLY and not _needs_closure(found)
    ]
    raise unknown_name("optimizer of torch.optim", name, usable)


def _timm_optimizer(name: str) -> MakeOptimizer:
    try:
        timm: Any = import_module("timm.optim")
        names = list(timm.list_optimizers())
    except (ImportError, AttributeError) as error:
        raise UserError(f"timm:{name} needs timm 1.0.12 or later ({error}): pip install -U timm") from None
    if name not in names:
        raise unknown_name("optimizer of timm", name, names)
    if timm.get_optimizer_info(name).second_order:
        raise UserError(f"timm:{name} needs second derivatives, which this training does not compute")
    try:
        make: MakeOptimizer = timm.get_optimizer_class(name)
        bare: Any = timm.get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:
        raise UserError(f"timm:{name} cannot be used here: {error}") from None
    _check_step(bare, f"timm:{name}")
    return make


def _check_step(optimizer: type, name: str) -> None:
    if _needs_closure(optimizer):
        raise UserError(
            f"{name} computes the loss several times in one step (its step needs a closure), but training"
            " computes it once"
        )


def _needs_closure(optimizer: type) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")  # type: ignore[attr-defined]
    return closure is not None and closure.default is closure.empty


def optimizer_problems(config: OptimConfig) -> Iterator[Problem]:
    """What is wrong with the optimizer's name or options."""
    try:
        make = find_optimizer(config.name)
        if inspect.isclass(make):
            _check_step(make, config.name)
    except UserError as error:
        yield Problem("optim.name", str(error))
        return
    ours = ("lr", "weight_decay", *FIELDS.get(config.name, ()))
    first = next(iter(inspect.signature(make).parameters))
    yield from option_problems(
        "optim.options",
        config.name,
        make,
        config.options,
        passed=(first, "fused"),
        elsewhere={field: f"optim.{field}" for field in ours},
    )


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

    `fused` takes torch's single-kernel implementation where there is one; it must be off under a gradient
    scaler, because the fused step hides from the scaler's caller whether a step was skipped. Raises UserError
    where the optimizer cannot be made so, or cannot be used.
    """
    groups = parameter_groups(model, config)
    assert config.lr is not None
    make = find_optimizer(config.name)
    fields = {field: getattr(config, field) for field in FIELDS.get(config.name, ())}
    if config.name in OPTIMIZERS:
        fields |= wanted(make, {"fused": fused})
    try:
        optimizer = make(groups, lr=config.lr, **fields, **fitted(make, config.options))
    except Exception as error:
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"optim.name: {config.name} cannot be made: {cause}") from error
    _check_optimizer(optimizer, model, config)
    return optimizer


def _check_optimizer(optimizer: Any, model: nn.Module, config: OptimConfig) -> None:
    """Raise UserError for what the training could not use; log a weight decay that does nothing."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"optim.name: {config.name} must make a torch.optim.Optimizer, not a {type(optimizer).__name__}"
        )
    _check_step(type(optimizer), f"optim.name: {config.name}")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    complete = held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not complete or not all("lr_scale" in group for group in optimizer.param_groups):
        raise UserError(
            f"optim.name: {config.name} must keep the groups of parameters that it gets, with their lr_scale"
        )
    if config.weight_decay and "weight_decay" not in optimizer.defaults:
        logger.warning("optim.weight_decay has no effect: %s decays no weights", config.name)
