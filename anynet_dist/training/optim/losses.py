"""Losses, and the weights of classes in them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


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
