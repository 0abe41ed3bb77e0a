"""Class weights let each class count alike, on any number of devices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anynet_dist.training.optim.losses import ImageLoss, balanced_weights

LABELS = np.array([0] * 70 + [1] * 20 + [3] * 10)


def test_balanced_weights_give_each_class_the_same_share() -> None:
    weights = balanced_weights(LABELS, 5).double()
    share = np.bincount(LABELS, minlength=5) * weights.numpy()
    np.testing.assert_allclose(share[[0, 1, 3]], 100 / 3, rtol=1e-6)
    assert weights[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1)
    assert weights[[2, 4]].tolist() == [1, 1], "classes without images"


def test_the_weighted_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    """torch's own mean, over the weights, would let gradients depend on how a batch is spread."""
    torch.manual_seed(0)
    weights, labels = balanced_weights(LABELS, 5), torch.from_numpy(LABELS)[torch.randperm(100)]
    logits, loss = torch.randn(100, 5), ImageLoss(weights, label_smoothing=0.1)
    parts = [loss(*part) for part in zip(logits.split(25), labels.split(25), strict=True)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(logits, labels))
    shares = F.one_hot(labels, 5).float()
    plain = ImageLoss(weights)
    torch.testing.assert_close(plain(logits, shares), plain(logits, labels))
    torch.testing.assert_close(ImageLoss()(logits, labels), F.cross_entropy(logits, labels))
