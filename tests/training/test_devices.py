from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config.schema import Config, Precision, RunConfig, TrainConfig
from anynet_dist.system.errors import UserError
from anynet_dist.training.devices import choose_memory_format, choose_precision

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def cpu_config(precision: Precision) -> Config:
    return replace(Config(), run=RunConfig(cpu=True), train=TrainConfig(precision=precision))


def test_fp16_is_refused_on_a_cpu_with_what_to_take_instead() -> None:
    with pytest.raises(UserError, match=r"fp16 needs a GPU.*use bf16 or fp32"):
        choose_precision(cpu_config("fp16"))


def test_auto_follows_the_cpus_instructions() -> None:
    features = torch.cpu.get_capabilities()
    native = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    precision, reason = choose_precision(cpu_config("auto"))
    assert precision == ("bf16" if native else "fp32")
    assert "this CPU" in reason


def test_auto_follows_a_launcher_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert choose_precision(cpu_config("auto")) == ("bf16", "as the launcher asks")


def test_the_config_overrules_the_launcher_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with caplog.at_level("WARNING", logger="anynet_dist"):
        assert choose_precision(cpu_config("fp32"))[0] == "fp32"
    assert "the config decides" in caplog.text


def test_memory_format_is_measured_without_touching_the_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_before = torch.get_rng_state()
    chosen, reason = choose_memory_format("auto", network, Accelerator(cpu=True), (8, 3, 16, 16))
    assert chosen in (torch.contiguous_format, torch.channels_last)
    assert "contiguous" in reason
    assert "channels_last" in reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_before)


def test_memory_format_as_configured_is_not_measured() -> None:
    chosen, reason = choose_memory_format(
        "channels_last", nn.Identity(), Accelerator(cpu=True), (8, 3, 16, 16)
    )
    assert (chosen, reason) == (torch.channels_last, "as configured")
