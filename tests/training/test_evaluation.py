import math
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from anynet_dist.training.classification import (
    Classification,
    ClassificationScores,
    RunningClassificationScores,
)
from anynet_dist.training.evaluation import evaluate as evaluate_task
from anynet_dist.training.task import TaskSetting

Problem = tuple[nn.Sequential, Tensor, Tensor]


def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator
) -> ClassificationScores:
    scores = evaluate_task(network, batches, accelerator, Classification(TaskSetting(num_classes=7)))
    assert isinstance(scores, ClassificationScores)
    return scores


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(101, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 7, (101,), generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 7, 4), nn.BatchNorm2d(7), nn.Dropout(0.5), nn.Flatten())
    return network, images, labels


def test_scores_are_sums_over_samples_whatever_the_batches(
    accelerator: Accelerator, problem: Problem
) -> None:
    network, images, labels = problem
    with torch.no_grad():
        logits = network.eval()(images)
    ranking = logits.argsort(dim=1, descending=True)
    for batch_size in (101, 50, 7, 1):
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        scores = evaluate(network, batches, accelerator)
        assert scores.count == 101
        assert scores.top1 == (ranking[:, 0] == labels).sum().item() / 101
        assert scores.top5 == (ranking[:, :5] == labels[:, None]).sum().item() / 101
        assert scores.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_evaluation_leaves_the_network_as_it_was(accelerator: Accelerator, problem: Problem) -> None:
    network, images, labels = problem
    network.train()
    before = network[1].state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    evaluate(network, [(images, labels)], accelerator)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network[1].state_dict().items())


def test_a_rank_without_samples_counts_nothing(accelerator: Accelerator, problem: Problem) -> None:
    scores = evaluate(problem[0], [], accelerator)
    assert (scores.count, scores.top1, scores.loss) == (0, 0, 0)


def test_fewer_than_five_classes_still_have_a_top5(accelerator: Accelerator) -> None:
    scores = RunningClassificationScores(torch.device("cpu"))
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])
    scores.update(logits, labels, torch.tensor(3.0))
    assert scores.reduce(accelerator).record("")["top5"] == 1
    assert scores.reduce(accelerator).count == 0


def test_a_training_step_that_is_left_out_does_not_hide_the_others(accelerator: Accelerator) -> None:
    scores = RunningClassificationScores(torch.device("cpu"))
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0])
    scores.update_if_finite(logits, labels, torch.tensor(3.0))
    scores.update_if_finite(logits * math.nan, labels, torch.tensor(math.nan))
    result = scores.reduce(accelerator)
    assert isinstance(result, ClassificationScores)
    assert (result.count, result.top1, result.loss, result.not_finite) == (2, 1, 1.5, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_whose_logits_are_not_finite_counts_as_wrong(
    accelerator: Accelerator, problem: Problem, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    network, images, labels = problem
    with torch.no_grad():
        right = network.eval()(images).argmax(1) == labels
    broken = images.clone()
    broken[[3, 50, 99]] = value
    right[[3, 50, 99]] = False
    for batch_size in (101, 10, 1):
        batches = zip(broken.split(batch_size), labels.split(batch_size), strict=True)
        scores = evaluate(network, batches, accelerator)
        assert (scores.count, scores.not_finite) == (101, 3)
        assert scores.top1 == right.sum().item() / 101
        assert math.isnan(scores.loss)
    assert "the logits of 3 of 101 images are not finite" in caplog.text
