"""The ImageNet recipes against pycls', whose formulas are written down here once more, independently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anynet_dist.config import load_config
from anynet_dist.models import build_anynet
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.optim.schedules import build_schedule, set_learning_rate

CONFIGS = Path(__file__).parents[2] / "configs" / "imagenet"
STEPS, STEPS_PER_EPOCH, EPOCHS = 20, 2, 20

# As the YAML of each network in pycls' dds_baselines states them: batch, learning rate, epochs of warm-up.
PUBLISHED = {
    "regnetx_400mf": (1024, 0.8, 5),
    "regnety_400mf": (1024, 0.8, 5),
    "resnet50": (256, 0.2, 0),
    "resnext50_32x4d": (256, 0.2, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_batch_and_learning_rate_are_those_of_each_network(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml").config
    assert (config.train.global_batch, config.optim.lr, config.schedule.warmup_epochs) == PUBLISHED[name]
    assert (config.train.epochs, config.optim.weight_decay, config.optim.momentum) == (100, 5e-5, 0.9)
    assert (config.eval.precise_bn, config.data.augment.lighting) == (8192, 0.1)
    assert config.train.label_smoothing == 0
    assert config.ema.decay is None


def pycls_learning_rate(epoch: int, base: float, warmup: float) -> float:
    rate = base * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
    if epoch < warmup:
        share = epoch / warmup
        rate *= 0.1 * (1 - share) + share
    return rate


def transcribed(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], base: float, warmup: float
) -> Sequence[Tensor]:
    """The weights after pycls' SGD: Nesterov momentum 0.9, and 5e-5 of each parameter in its gradient."""
    weights = list(network.parameters())
    velocities: list[Tensor | None] = [None] * len(weights)
    for step, (images, labels) in enumerate(batches):
        logits = network(images)
        loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(labels)), labels].mean()
        gradients = torch.autograd.grad(loss, weights)
        rate = pycls_learning_rate(step // STEPS_PER_EPOCH, base, warmup)
        with torch.no_grad():
            for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                decayed = gradient + 5e-5 * weight
                before = velocities[number]
                velocity = decayed.clone() if before is None else 0.9 * before + decayed
                weight.sub_(rate * (decayed + 0.9 * velocity))
                velocities[number] = velocity
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_twenty_steps_are_those_of_the_recipe(name: str) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(6, 3, 17, 17).double(), torch.randint(3, (6,))) for _ in range(STEPS)]
    network = build_anynet(
        num_blocks_per_stage=[1, 2], num_channels=[8, 8, 16], group_width=4, se_ratio=0.25, num_classes=3
    ).double()
    with torch.no_grad():  # decay shows on what is not 0
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    other = deepcopy(network)
    config = load_config(CONFIGS / f"{name}.yaml", ["--train.epochs", str(EPOCHS)]).config
    optimizer = build_optimizer(network, config.optim)
    schedule = build_schedule(config.schedule, STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH)
    assert config.optim.lr is not None
    for step, (images, labels) in enumerate(batches):
        set_learning_rate(optimizer, config.optim.lr * schedule(step))
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels, label_smoothing=config.train.label_smoothing).backward()
        optimizer.step()
    _, base, warmup = PUBLISHED[name]
    for ours, theirs in zip(network.parameters(), transcribed(other, batches, base, warmup), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_the_rate_stands_still_within_an_epoch() -> None:
    config = load_config(CONFIGS / "regnetx_400mf.yaml").config
    schedule = build_schedule(config.schedule, 7, 700)
    for step in range(700):
        expected = 0.5 * (1 + math.cos(math.pi * (step // 7) / 100))
        expected *= min(1.0, 0.1 + 0.9 * (step // 7) / 5)
        assert schedule(step) == pytest.approx(expected, abs=1e-12)
