import pytest
import torch
from torch import nn

from anynet_dist.training.optim.ema import WeightAverage


def constant_network(value: float) -> nn.BatchNorm2d:
    network = nn.BatchNorm2d(2)
    for name, tensor in network.state_dict().items():
        if name != "num_batches_tracked":
            tensor.fill_(value)
    return network


def averaged(average: WeightAverage, name: str) -> torch.Tensor:
    return average.module.state_dict()[name]


def test_average_follows_weights_and_floating_buffers() -> None:
    average = WeightAverage(constant_network(0.0), decay=0.9, warmup=False)
    network = constant_network(1.0)
    average.update(network)
    average.update(network)
    expected = torch.full((2,), 1 - 0.9**2)
    assert torch.allclose(averaged(average, "weight"), expected)
    assert torch.allclose(averaged(average, "running_var"), expected)


def test_integer_buffers_are_copied() -> None:
    average = WeightAverage(constant_network(0.0), decay=0.9)
    network = constant_network(1.0)
    network.state_dict()["num_batches_tracked"].fill_(7)
    average.update(network)
    assert averaged(average, "num_batches_tracked") == 7


def test_updating_every_k_steps_decays_as_much_as_k_updates() -> None:
    assert WeightAverage(constant_network(0.0), decay=0.9, every=4).decay == pytest.approx(0.9**4)


def test_warmup_forgets_the_first_weights_sooner() -> None:
    average = WeightAverage(constant_network(0.0), decay=0.9999, warmup=True)
    average.update(constant_network(1.0))
    assert torch.allclose(averaged(average, "weight"), torch.full((2,), 0.9))


def test_average_neither_trains_nor_shares_memory() -> None:
    network = constant_network(1.0)
    average = WeightAverage(network, decay=0.9)
    network.weight.data.fill_(5.0)
    assert torch.allclose(averaged(average, "weight"), torch.ones(2))
    assert not average.module.get_parameter("weight").requires_grad
    assert not average.module.training
