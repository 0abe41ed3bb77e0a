from __future__ import annotations

import pytest
import torch

from anynet_dist.bench.limits import arithmetic_line, bandwidth_line, memory_bandwidth, peak_arithmetic
from anynet_dist.models import network_complexity, network_spec
from anynet_dist.training.mfu import utilisation


@pytest.mark.parametrize(
    ("preset", "images_per_second"),
    [("resnet50", 8280), ("regnetx_1_6gf", 11200), ("regnetx_3_2gf", 7810), ("regnety_8gf", 4980)],
)
def test_the_bandwidth_line_of_an_h100_is_what_was_derived_elsewhere(
    preset: str, images_per_second: float
) -> None:
    cost = network_complexity(network_spec(preset=preset))
    line = bandwidth_line(cost, "bf16", "train", 3.35e12)
    assert line == pytest.approx(images_per_second, rel=0.06)
    assert bandwidth_line(cost, "fp32", "train", 3.35e12) == pytest.approx(line and line / 2)


def test_at_the_arithmetic_line_the_utilisation_is_one() -> None:
    cost = network_complexity(network_spec(preset="resnet50"))
    line, forward = arithmetic_line(cost, "train", 1e15), arithmetic_line(cost, "forward", 1e15)
    assert line is not None
    assert forward is not None
    assert cost.flops is not None
    assert utilisation(cost.flops, line, peak=1e15) == pytest.approx(1)
    assert forward == pytest.approx(3 * line)


def test_a_cpu_is_measured_and_keeps_its_threads() -> None:
    device, threads = torch.device("cpu"), torch.get_num_threads()
    bandwidth, source = memory_bandwidth(device)
    flops, _ = peak_arithmetic(device, "fp32")
    assert source == "measured by a copy"
    assert bandwidth > 1e8
    assert flops > 1e8
    assert torch.get_num_threads() == threads
