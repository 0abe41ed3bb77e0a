import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from anynet_dist.training.evaluation import RunningScores, evaluate

Problem = tuple[nn.Sequential, Tensor, Tensor]


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
    scores = RunningScores(torch.device("cpu"))
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])
    scores.update(logits, labels, torch.tensor(3.0))
    assert scores.reduce(accelerator).top5 == 1
    assert scores.reduce(accelerator).count == 0
