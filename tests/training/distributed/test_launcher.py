"""What the launcher's config says never overrides the run's."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.utils import DynamoBackend

from anynet_dist.config import Config, load_config
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed.accelerator import build_accelerator, choose_precision, on_cpu
from anynet_dist.training.distributed.launcher import put_aside

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def config(blobs_config: Path) -> Config:
    """A run on the CPU that does not compile."""
    return load_config(blobs_config, ("--run.cpu", "true")).config


def test_dynamo_and_accumulation_come_from_the_run_and_one_line_says_so(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
        "ACCELERATE_DYNAMO_MODE": "max-autotune",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
        "ACCELERATE_GRADIENT_CLIPPING": "0.1",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
    }
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO, logger="anynet_dist"):
        accelerator = build_accelerator(config, "fp32", accumulation=2)
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert accelerator.gradient_state.num_steps == 2
    (line,) = [record.getMessage() for record in caplog.records if "launcher" in record.name]
    assert all(f"{name}={value}" in line for name, value in asked.items())
    assert "train.compile" in line


def test_what_asks_for_nothing_is_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As accelerate's launcher sets them without a config."""
    for name, value in {"BACKEND": "NO", "MODE": "default", "USE_FULLGRAPH": "False"}.items():
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", value)
    put_aside()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_CPU", "maybe", "ACCELERATE_USE_CPU=maybe: must be true or false"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "asks for Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asks for a parallelism_config"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        build_accelerator(config, "fp32", accumulation=1)


def test_empty_switches_are_as_if_not_set(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "")
    assert choose_precision(config)[0] == "fp32"
    assert build_accelerator(config, "fp32", accumulation=1).num_processes == 1


def test_a_launcher_that_stays_on_the_cpu_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not on_cpu(Config())
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert on_cpu(Config())


def test_a_precision_that_nothing_here_computes_in_is_told(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    chosen, _ = choose_precision(replace(config, train=replace(config.train, precision="auto")))
    assert chosen in ("bf16", "fp32")
    assert "the launcher asks for fp8, which this run does not compute in" in caplog.text
