"""What training records and traces hold beside loss and score."""

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch

from anynet_dist.config import load_config
from anynet_dist.models.complexity import network_complexity
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.training.mfu import peak_flops, training_flops, utilisation
from anynet_dist.training.step_record import peak_memory
from anynet_dist.training.trainer import Trainer
from tests.conftest import Launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


def train_records(run: Path) -> list[dict[str, float]]:
    return [record for record in read_records(run / "metrics.jsonl") if "train/loss" in record]


@pytest.mark.parametrize("clip", [(), ("--train.clip_grad_norm", "0.01")])
def test_the_gradient_norm_is_that_of_the_step_before_clipping(
    blobs_config: Path, tmp_path: Path, clip: tuple[str, ...]
) -> None:
    run = trainer(blobs_config, "--train.epochs", "1", *clip)
    norms: list[float] = []

    def note(*_: object) -> None:
        gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    run.optimizer.optimizer.register_step_pre_hook(note)
    run.fit()
    logged = [record["grad_norm"] for record in train_records(tmp_path / "run")]
    assert len(logged) == 3
    if clip:
        assert all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)
        assert all(norm > 0.01 for norm in logged)
    else:
        assert logged == pytest.approx(norms)


def test_the_peak_memory_of_a_cpu_run_is_the_process_s_own(blobs_config: Path, tmp_path: Path) -> None:
    trainer(blobs_config, "--train.epochs", "1").fit()
    (*_, last) = train_records(tmp_path / "run")
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak_memory(torch.device("cpu")) == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
    assert 0.1 < last["peak_memory_gib"] <= peak_memory(torch.device("cpu")) / 2**30 + 0.001
    assert "mfu" not in last, "the peak of a CPU is not known"


def test_utilisation_is_the_network_s_arithmetic_over_the_device_s_peak(blobs_config: Path) -> None:
    with trainer(blobs_config) as run:
        forward = network_complexity(run.network.spec, 16).flops
    assert forward is not None
    assert training_flops(forward) == 6 * forward
    assert utilisation(forward, 1000, 12_000.0 * forward) == pytest.approx(0.5)
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 156e12
    assert peak_flops("Tesla V100-SXM2-16GB", "fp32") is None, "it has no TF32"
    assert peak_flops("some other device", "bf16") is None


def test_a_profile_of_some_steps_lies_in_the_run_folder(blobs_config: Path, tmp_path: Path) -> None:
    trainer(blobs_config, "--train.profile", "1:3").fit()
    (file,) = (tmp_path / "run" / "profile").iterdir()
    assert file.name == "steps_2_to_3.json"
    names = [event.get("name", "") for event in json.loads(file.read_text())["traceEvents"]]
    assert len([name for name in names if name.startswith("Optimizer.step")]) == 2
    assert any("convolution_backward" in name for name in names)


def test_the_seconds_of_a_start_are_shown_by_part_after_the_first_step(
    blobs_config: Path, launch: Launch
) -> None:
    options = ("--train.profile_startup", "true", "--train.max_steps", "2")
    shown = launch("train", blobs_config, *options).stdout
    lines = shown.splitlines()
    begin = next(number for number, line in enumerate(lines) if "to the end of the first step" in line)
    rows = dict(re.findall(r"^ +(\S.*?) +(\d+\.\d\d) s$", "\n".join(lines[begin + 1 : begin + 20]), re.M))
    total = float(rows.pop("all"))
    assert {"network", "loaders", "first batch", "first step"} <= rows.keys()
    assert sum(map(float, rows.values())) == pytest.approx(total, abs=0.01 * len(rows))
    assert shown.count("to the end of the first step") == 1


def test_a_profile_that_the_end_of_the_run_cuts_short_is_written(blobs_config: Path, tmp_path: Path) -> None:
    trainer(blobs_config, "--train.profile", "4:100").fit()
    assert (tmp_path / "run" / "profile" / "steps_5_to_end.json").exists()


def test_a_run_beyond_the_steps_to_profile_says_so(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(blobs_config).fit()
    trainer(blobs_config, "--resume", "auto", "--train.profile", "1:3", "--train.epochs", "3").fit()
    assert "train.profile 1:3 has no effect: the run is already at step 6" in caplog.text
    assert not (tmp_path / "run" / "profile").exists()


def test_a_trainer_that_does_not_fit_frees_its_folder(blobs_config: Path, tmp_path: Path) -> None:
    with trainer(blobs_config) as run:
        assert (tmp_path / "run" / "run.lock").exists()
        assert run.plan.total_steps == 6
    assert not (tmp_path / "run" / "run.lock").exists()
    result = trainer(blobs_config).fit()
    assert math.isfinite(result["test/loss"])
