"""Losses; class weights let each class count alike, on any number of devices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anynet_dist.config.schema import TrainConfig
from anynet_dist.system.errors import UserError
from anynet_dist.training.optim.losses import (
    BinaryCrossEntropy,
    ImageLoss,
    balanced_weights,
    build_loss,
    loss_problems,
    register_loss,
)

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


def test_bce_is_timms() -> None:
    timm_loss = pytest.importorskip("timm.loss")
    mixup_target = pytest.importorskip("timm.data.mixup").mixup_target
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    for threshold in (None, 0.2):
        theirs = timm_loss.BinaryCrossEntropy(smoothing=0.1, target_threshold=threshold)
        ours = BinaryCrossEntropy(label_smoothing=0.1, target_threshold=threshold)
        torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
        # timm smooths when it mixes, we in the loss.
        mixed = mixup_target(labels, 5, lam=0.7, smoothing=0.1)
        shares = mixup_target(labels, 5, lam=0.7, smoothing=0.0)
        torch.testing.assert_close(ours(logits, shares), theirs(logits, mixed))


def test_bce_weighs_images_so_that_classes_count_alike() -> None:
    weights, labels = balanced_weights(LABELS, 5), torch.from_numpy(LABELS)
    logits = torch.zeros(len(labels), 5, requires_grad=True)
    BinaryCrossEntropy(weights)(logits, labels).backward()
    assert logits.grad is not None
    by_class = [logits.grad[labels == number].abs().sum().item() for number in (0, 1, 3)]
    assert by_class == pytest.approx([by_class[0]] * 3)


def build(**options: Any) -> nn.Module:
    return build_loss(TrainConfig(**options), None, 3, torch.device("cpu"))


def test_losses_get_their_options() -> None:
    loss = build(loss="bce", label_smoothing=0.1, loss_options={"target_threshold": 0.3})
    assert isinstance(loss, BinaryCrossEntropy)
    assert (loss.label_smoothing, loss.target_threshold) == (0.1, 0.3)
    with pytest.raises(UserError, match=r"train\.loss: 'bce' cannot be made: target_threshold must be"):
        build(loss="bce", loss_options={"target_threshold": 2})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"loss": "bec"},
            "train.loss: unknown loss 'bec'; did you mean 'bce'? (allowed: bce, cross_entropy)",
        ),
        (
            {"loss": "bce", "loss_options": {"treshold": 1}},
            "train.loss_options.treshold: bce has no such option; did you mean 'target_threshold'?"
            " (allowed: target_threshold)",
        ),
        (
            {"loss_options": {"label_smoothing": 1}},
            "train.loss_options.label_smoothing: set train.label_smoothing in its place",
        ),
    ],
)
def test_what_is_wrong_with_a_loss_is_said(options: dict[str, Any], problem: str) -> None:
    assert [str(each) for each in loss_problems(TrainConfig(**options))] == [problem]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda logits: logits, r"must return the mean over the images.*got shape \(2, 3\)"),
        (lambda logits: 1.0, r"got float"),
        (lambda logits: torch.ones(()), r"depends on the logits"),
        (lambda logits: logits["x"], r"fails with logits \(2, 3\) and targets \(2,\): "),
    ],
)
@pytest.mark.usefixtures("registries")
def test_a_loss_that_cannot_be_used_is_refused(result: Callable[[Tensor], Any], message: str) -> None:
    class Mine(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Any:
            return result(logits)

    register_loss("mine")(Mine)
    with pytest.raises(UserError, match=rf"train\.loss: 'mine' .*{message}"):
        build(loss="mine")


@pytest.mark.usefixtures("registries")
def test_a_loss_without_label_smoothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    register_loss("plain")(lambda: nn.CrossEntropyLoss())
    assert not list(loss_problems(TrainConfig(loss="plain", label_smoothing=0.1)))
    assert "train.label_smoothing has no effect: the loss 'plain' takes no label_smoothing" in caplog.text


@pytest.mark.usefixtures("registries")
def test_a_loss_whose_weights_nothing_trains_is_refused() -> None:
    register_loss("trained")(lambda: nn.Linear(3, 3))
    with pytest.raises(UserError, match="has parameters of its own"):
        build(loss="trained")
