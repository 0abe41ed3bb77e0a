from dataclasses import replace

import pytest
import torch

from anynet_dist.config.schema import Config, PrecisionChoice, RunConfig, SpeedConfig, TrainConfig
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed.accelerator import build_accelerator, choose_precision

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def cpu_config(precision: PrecisionChoice) -> Config:
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


def test_options_of_sending_gradients_are_named_where_one_process_sends_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    speed = SpeedConfig(gradient_dtype="bf16", gradient_bucket_view=False)
    with caplog.at_level("INFO", logger="anynet_dist"):
        build_accelerator(replace(cpu_config("fp32"), speed=speed), "fp32", 1)
    assert "speed.gradient_bucket_view has no effect: one process" in caplog.text
    assert "speed.gradient_dtype has no effect" in caplog.text
    assert "static_graph" not in caplog.text
