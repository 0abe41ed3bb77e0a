"""What only torchvision's transforms do, or timm's: colour jitter, automatic policies, random erasing; one
sample at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.params import SampleTransform
from anynet_dist.data.transforms.timm_policy import TimmPolicy

Policy = Callable[[Tensor, int, int], Tensor]


def torchvision_policy(transform: SampleTransform) -> Policy | None:
    """A function of (image (3, R, R) uint8, epoch, key of the sample) to an image alike; None without one.

    What it does is a function of (seed, epoch, key) alone; torch's own random numbers go on undisturbed.
    """
    if transform.augment is None or not transform.augment.needs_torchvision:
        return None
    steps = v2.Compose(_steps(transform.augment, transform.fill, transform.resolution))

    def apply(image: Tensor, epoch: int, key: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(transform.seed, epoch, key))
            changed: Tensor = steps(image)
        return changed

    return apply


def _steps(augment: Augmentation, fill: tuple[int, int, int], side: int) -> list[Callable[[Tensor], Tensor]]:
    steps: list[Callable[[Tensor], Tensor]] = []
    if augment.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(fill=list(fill)))
    elif augment.auto_augment == "randaugment":
        steps.append(v2.RandAugment(augment.randaugment_ops, augment.randaugment_magnitude, fill=list(fill)))
    elif augment.timm_policy:
        steps.append(TimmPolicy(augment.timm_policy, side, fill))
    if any(augment.color_jitter):
        steps.append(v2.ColorJitter(*augment.color_jitter))
    if augment.random_erasing:
        steps.append(v2.RandomErasing(p=augment.random_erasing, value=list(fill)))
    return steps


def _seed_of(seed: int, epoch: int, key: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, key, 2]).generate_state(1, np.uint64)[0])
