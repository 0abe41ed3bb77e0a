"""Mixup and CutMix: images of a batch blended with each other, on the device, by torchvision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Mixing:
    """Blends each batch by mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019), or one of both at random.

    What is drawn is a function of (seed, batch number) alone, whatever else uses torch's random numbers, so
    that a resumed run blends as an uninterrupted one does.
    """

    def __init__(self, num_classes: int, mixup_alpha: float, cutmix_alpha: float, seed: int) -> None:
        self.seed = seed
        self.blend = _blend(num_classes, mixup_alpha, cutmix_alpha) if mixup_alpha or cutmix_alpha else None

    def __call__(self, images: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) to blended images and class probabilities (B, num_classes).

        `number` counts the batches of all ranks. Without an alpha both come back as they are.
        """
        if self.blend is None:
            return images, labels
        (seed,) = np.random.SeedSequence([self.seed, number, 2]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            blended, probabilities = self.blend(images, labels)
        return blended, probabilities


def _blend(num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> nn.Module:
    from torchvision.transforms import v2  # takes as long as torch itself to import

    choices: list[nn.Module] = []
    if mixup_alpha:
        choices.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha:
        choices.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    return v2.RandomChoice(choices)
