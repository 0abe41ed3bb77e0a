"""Losses by name, and the weights of classes in them.

A loss is an `nn.Module` class, or a function that makes one, registered under a name:

    @register_loss("mine")
    class Mine(nn.Module):
        def __init__(self, label_smoothing: float = 0.0, gamma: float = 2.0): ...

It asks by name for any of `class_weights`, `label_smoothing` and `num_classes`; its other arguments come from
`train.loss_options`. Called with logits (N, classes) and class numbers (N,) or shares of classes
(N, classes), it returns the mean over the images.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anynet_dist.config.errors import Problem
from anynet_dist.config.schema import TrainConfig
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import Registry
from anynet_dist.training.optim.chosen import fitted, option_problems, parameters_of, wanted

logger = logging.getLogger(__name__)

MakeLoss = Callable[..., nn.Module]
Registered = TypeVar("Registered", bound=MakeLoss)

SETTINGS = {"class_weights": "train.class_weights", "label_smoothing": "train.label_smoothing"}
LOSSES: Registry[MakeLoss] = Registry(
    "loss", passed=(*SETTINGS, "num_classes"), base=nn.Module, functions=True, free=True
)


def register_loss(name: str) -> Callable[[Registered], Registered]:
    """Register a loss, an nn.Module class or a function that makes one, under `name`."""
    return LOSSES.register(name)


@register_loss("cross_entropy")
class ImageLoss(nn.Module):
    """Cross-entropy, averaged over images.

    With class weights it is still the sum over images divided by their number, so that gradients do not
    depend on how a batch is spread over devices; torch's own mean divides by the weights of each part.
    """

    def __init__(self, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.class_weights, self.label_smoothing = class_weights, label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, classes) and class numbers (N,) or shares of classes (N, classes) to a scalar."""
        smoothing = self.label_smoothing
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        return F.cross_entropy(
            logits, targets, self.class_weights, reduction="none", label_smoothing=smoothing
        ).mean()


@register_loss("bce")
class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of each class by itself, averaged over classes and images.

    As in Wightman et al. (2021), "ResNet strikes back", section 2: the shares of mixed classes are the
    targets or, above `target_threshold`, become 1 and all others 0. Class weights weigh whole images, each by
    its classes, so that all classes count alike.
    """

    def __init__(
        self,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        target_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if target_threshold is not None and not 0 <= target_threshold < 1:
            raise UserError(f"target_threshold must be at least 0 and below 1 (got {target_threshold})")
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        self.target_threshold = target_threshold

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (N, classes) and class numbers (N,) or shares of classes (N, classes) to a scalar."""
        classes = logits.shape[1]
        shares = F.one_hot(targets, classes) if targets.ndim == 1 else targets
        shares = shares.to(logits.dtype)
        wanted_shares = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.target_threshold is not None:
            wanted_shares = (wanted_shares > self.target_threshold).to(logits.dtype)
        if self.class_weights is None:
            return F.binary_cross_entropy_with_logits(logits, wanted_shares)
        each = F.binary_cross_entropy_with_logits(logits, wanted_shares, reduction="none").mean(dim=1)
        return (each * (shares @ self.class_weights)).mean()


def balanced_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """Weights (classes,) with which each class counts alike and the mean over the images is 1.

    n / (k * n_c) for a class of n_c of the n images of k classes, as in King and Zeng (2001), "Logistic
    regression in rare events data"; classes without images have weight 1.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.ones(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights).float()


def loss_problems(config: TrainConfig) -> Iterator[Problem]:
    """What is wrong with the loss's name or options; logs the settings that it does not use."""
    try:
        make = LOSSES.find(config.loss)
    except UserError as error:
        yield Problem("train.loss", str(error))
        return
    passed = ("num_classes",)
    yield from option_problems(
        "train.loss_options", config.loss, make, config.loss_options, passed=passed, elsewhere=SETTINGS
    )
    in_use = {"class_weights": config.class_weights != "none", "label_smoothing": config.label_smoothing > 0}
    for name, option in SETTINGS.items():
        if in_use[name] and name not in parameters_of(make):
            logger.warning("%s has no effect: the loss '%s' takes no %s", option, config.loss, name)


def build_loss(
    config: TrainConfig, class_weights: Tensor | None, num_classes: int, device: torch.device
) -> nn.Module:
    """The loss that the config names, on `device`. Raises UserError where it cannot be used."""
    make, where = LOSSES.find(config.loss), f"train.loss: '{config.loss}'"
    offered = {
        "class_weights": class_weights,
        "label_smoothing": config.label_smoothing,
        "num_classes": num_classes,
    }
    try:
        loss = make(**wanted(make, offered), **fitted(make, config.loss_options))
    except Exception as error:
        raise UserError(f"{where} cannot be made: {_cause(error)}") from error
    if not isinstance(loss, nn.Module):
        raise UserError(f"{where} must make a torch.nn.Module, not a {type(loss).__name__}")
    if any(True for _ in loss.parameters()):
        raise UserError(f"{where} has parameters of its own, which nothing would train")
    loss.to(device)
    _try_loss(loss, num_classes, device, where)
    return loss


def _try_loss(loss: nn.Module, classes: int, device: torch.device, where: str) -> None:
    """Call a copy of the loss with two images. Raises UserError where that does not give a mean."""
    trial = copy.deepcopy(loss)
    labels = torch.arange(2, device=device) % classes
    for targets in (labels, F.one_hot(labels, classes).float()):
        logits = torch.zeros(2, classes, device=device, requires_grad=True)
        try:
            value = trial(logits, targets)
        except Exception as error:
            shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise UserError(f"{where} fails with {shapes}: {_cause(error)}") from error
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"{where} must return the mean over the images, a scalar tensor that depends on the logits"
                f" (got {got})"
            )


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
