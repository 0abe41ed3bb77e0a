"""The memory format is measured once and remembered, whatever else the machine does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config import load_config
from anynet_dist.models.anynet import build_anynet
from anynet_dist.training import memory_format
from anynet_dist.training.evaluate_run import evaluate_run
from anynet_dist.training.memory_format import choose_memory_format
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SHAPE = (8, 3, 32, 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def busy() -> Iterator[None]:
    """A machine whose cores others use."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.fixture
def network() -> nn.Module:
    return build_anynet(num_blocks_per_stage=[1, 1], num_channels=[8, 16, 32], num_classes=4)


def test_it_is_measured_without_touching_the_network(network: nn.Module, cache: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_before, threads = torch.get_rng_state(), torch.get_num_threads()
    chosen, reason = choose_memory_format("auto", network, Accelerator(cpu=True), SHAPE)
    assert chosen in (torch.contiguous_format, torch.channels_last)
    assert "contiguous" in reason
    assert "channels_last" in reason
    assert f"kept in {cache}" in reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_before)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_a_busy_machine_does_not_change_what_was_chosen(network: nn.Module) -> None:
    """What is much faster is found much faster beside others, too: it is processor time that counts."""
    accelerator = Accelerator(cpu=True)
    kernels = {
        "contiguous": lambda: sum(range(200_000)),
        "channels_last": lambda: sum(range(400_000)),
    }

    class Slower(nn.Module):
        """Twice as slow in one of the formats."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            last = images.is_contiguous(memory_format=torch.channels_last)
            kernels["channels_last" if last else "contiguous"]()
            return self.conv(images)

    for _ in range(5):
        seconds = memory_format.measure(Slower(), accelerator, SHAPE)
        assert seconds["contiguous"] < seconds["channels_last"]


def test_the_choice_is_remembered_for_network_device_and_batch(
    network: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    first, _ = choose_memory_format("auto", network, accelerator, SHAPE)
    other = "contiguous" if first == torch.channels_last else "channels_last"
    file = cache / "memory_format.json"
    file.write_text(file.read_text().replace(memory_format.format_name(first), other))
    again, reason = choose_memory_format("auto", network, accelerator, SHAPE)
    assert memory_format.format_name(again) == other, "it was not measured again"
    assert "remembered" in reason
    _, reason = choose_memory_format("auto", network, accelerator, (8, 3, 64, 64))
    assert "a training step took" in reason, "another size is another question"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', "\udcff"])
def test_a_damaged_cache_is_measured_anew(network: nn.Module, cache: Path, content: str) -> None:
    cache.mkdir()
    (cache / "memory_format.json").write_text(content, errors="surrogateescape")
    _, reason = choose_memory_format("auto", network, Accelerator(cpu=True), SHAPE)
    assert "kept in" in reason


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(network: nn.Module, cache: Path) -> None:
    cache.write_text("a file")
    _, reason = choose_memory_format("auto", network, Accelerator(cpu=True), SHAPE)
    assert "it cannot be kept" in reason


def test_what_is_configured_is_not_measured(cache: Path) -> None:
    chosen, reason = choose_memory_format("channels_last", nn.Identity(), Accelerator(cpu=True), SHAPE)
    assert (chosen, reason) == (torch.channels_last, "as configured")
    assert not cache.exists()


def test_evaluation_takes_the_format_of_the_run(blobs_config: Path, tmp_path: Path, cache: Path) -> None:
    config = load_config(blobs_config, ["--train.memory_format", "auto"]).config
    result = Trainer(config).fit()
    cached = (cache / "memory_format.json").read_bytes()
    scores = evaluate_run(str(tmp_path / "run"), "test")
    assert scores.loss == pytest.approx(result["test/loss"], rel=1e-6)
    assert (cache / "memory_format.json").read_bytes() == cached
