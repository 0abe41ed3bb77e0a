"""torch.compile in training: what is chosen, that it trains alike, and what is kept."""

import logging
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from anynet_dist.config import Config, load_config
from anynet_dist.models.activation_checkpointing import checkpoint_activations
from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.runs.progress import RunContext
from anynet_dist.system.errors import UserError
from anynet_dist.training.compilation import (
    Work,
    choose_compile,
    compile_network,
    evaluating,
    wanted_compile,
)
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
CONTEXT = RunContext(
    world_size=1, device_batch=8, precision="fp32", memory_format="contiguous", total_steps=9, compile="full"
)


@pytest.fixture
def network() -> AnyNet:
    torch.manual_seed(0)
    return build_anynet(
        num_blocks_per_stage=[2, 3], num_channels=[8, 8, 16], strides=[1, 2], stem="conv3x3_s2", num_classes=3
    )


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where compiled code goes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    yield tmp_path / "inductor"
    torch.compiler.reset()


def config(blobs_config: Path, *options: str) -> Config:
    return load_config(blobs_config, ["--run.cpu", "true", "--data.train_res", "16", *options]).config


@pytest.mark.parametrize(("images", "mode"), [(10**6, "off"), (10**10, "full")])
def test_auto_compiles_what_runs_for_long(
    images: int, mode: str, blobs_config: Path, network: AnyNet
) -> None:
    chosen, why = choose_compile(
        config(blobs_config, "--train.compile", "auto"), network.spec, Work(images, 1, "DDP"), None
    )
    assert chosen == mode
    assert why.startswith("auto, by the size of the run: ")


def test_auto_is_what_the_run_was_started_with(blobs_config: Path, network: AnyNet) -> None:
    auto = config(blobs_config, "--train.compile", "auto")
    assert choose_compile(auto, network.spec, Work(1, 1, "DDP"), CONTEXT)[0] == "full"
    long = Work(10**12, 1, "DDP")
    assert choose_compile(auto, network.spec, long, replace(CONTEXT, compile="off"))[0] == "off"
    assert choose_compile(auto, network.spec, replace(long, engine="FSDP2"), None)[0] == "off"


def test_a_cpu_has_no_cuda_graphs(blobs_config: Path, network: AnyNet) -> None:
    graphs = config(blobs_config, "--train.compile", "reduce-overhead")
    mode, why = wanted_compile(graphs, network.spec, Work(1, 1, "DDP"), None)
    assert (mode, why) == ("full", "as configured, but without CUDA graphs: this is a CPU")
    auto, started = (
        config(blobs_config, "--train.compile", "auto"),
        replace(CONTEXT, compile="reduce-overhead"),
    )
    mode, why = wanted_compile(auto, network.spec, Work(1, 1, "DDP"), started)
    assert (mode, why) == ("full", "as the run was started with, but without CUDA graphs: this is a CPU")


def test_a_machine_that_cannot_compile_says_why(blobs_config: Path, network: AnyNet) -> None:
    broken = {"cpp.cxx": ("no-such-compiler",)}
    full, auto = (config(blobs_config, "--train.compile", mode) for mode in ("full", "auto"))
    with torch._inductor.config.patch(broken):
        with pytest.raises(UserError, match=r"train\.compile: full does not work on this machine: .+"):
            choose_compile(full, network.spec, Work(1, 1, "DDP"), None)
        mode, why = choose_compile(auto, network.spec, Work(10**12, 1, "DDP"), None)
    assert mode == "off"
    assert why.startswith("this machine cannot compile: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
@pytest.mark.parametrize("mode", ["regional", "full"])
def test_compiled_networks_compute_the_same(mode: str, network: AnyNet) -> None:
    images = torch.randn(6, 3, 16, 16)
    wanted = network(images)
    names = list(network.state_dict())
    compile_network(network, mode)
    torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-4)
    assert list(network.state_dict()) == names
    torch._dynamo.utils.counters.clear()
    network.eval()
    with evaluating(network, compiled=False), torch.inference_mode():
        network(images[:5])
    assert not torch._dynamo.utils.counters["stats"], "an evaluation compiles nothing"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_networks_checkpoint_activations() -> None:
    network = build_anynet(
        block_type="vgg", num_blocks_per_stage=[1], num_channels=[8, 8], strides=1, head="features"
    )
    plain, images = deepcopy(network), torch.randn(6, 3, 16, 16)
    checkpoint_activations(network, ["stage1"])
    compile_network(network, "regional")
    for each in (plain, network):
        each(images).square().mean().backward()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_compiled_run_learns_as_another_does(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: Path
) -> None:
    for name, compiled in (("eager", "off"), ("compiled", "full")):
        options = ("--run.dir", str(tmp_path / name), "--train.compile", compiled, "--train.epochs", "1")
        with caplog.at_level(logging.INFO, logger="anynet_dist"):
            Trainer(config(blobs_config, *options)).fit()
    assert re.search(r"compile +full: as configured", caplog.text)
    assert any(kept.rglob("*.so")), "compiled code is kept"
    losses = [
        [r["train/loss"] for r in read_records(tmp_path / name / "metrics.jsonl") if "train/loss" in r]
        for name in ("eager", "compiled")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
