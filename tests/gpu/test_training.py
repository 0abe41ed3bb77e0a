"""What only a GPU can show. Skipped, saying so, where there is none; docs/gpu-checks.md has the targets."""

from pathlib import Path

import pytest
import torch

from anynet_dist.config import load_config
from anynet_dist.data.beton.build import build_source
from anynet_dist.data.sources import load_source
from anynet_dist.runs.metrics_log import Record, read_records
from anynet_dist.training.console import training_bar
from anynet_dist.training.mfu import device_peak
from anynet_dist.training.trainer import Trainer

pytestmark = [
    pytest.mark.usefixtures("fresh_accelerate"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

SHORT = ("--train.epochs", "2", "--schedule.warmup_epochs", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_source(load_source("digits"), folder)
    return folder


def demo(root: Path, digits: Path, run: Path, *overrides: str) -> Trainer:
    data = ("--data.train", str(digits / "train.beton"), "--data.test", str(digits / "val.beton"))
    config = root / "configs" / "digits" / "demo.yaml"
    return Trainer(load_config(config, [*data, "--run.dir", str(run), *overrides]).config)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_demo_reaches_its_accuracy_in_every_precision(
    root: Path, digits: Path, tmp_path: Path, precision: str
) -> None:
    result: Record = demo(root, digits, tmp_path / "run", "--train.precision", precision).fit()
    assert result["test/top1"] >= 0.97


def test_steps_that_the_fp16_scaler_skips_do_not_move_the_learning_rate(
    root: Path, digits: Path, tmp_path: Path
) -> None:
    trainer = demo(root, digits, tmp_path / "run", "--train.precision", "fp16", *SHORT)
    assert trainer.accelerator.scaler is not None
    trainer.accelerator.scaler.load_state_dict(
        {**trainer.accelerator.scaler.state_dict(), "scale": 2.0**60}  # overflows in the first steps
    )
    trainer.fit()
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert records[-1]["skipped_steps"] > 0
    updates = records[-1]["step"] - 1 - records[-1]["skipped_steps"]
    assert records[-1]["lr"] == pytest.approx(trainer.plan.learning_rate(updates))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("loader", ["ffcv", "torch"])
def test_no_step_waits_for_the_gpu(root: Path, digits: Path, tmp_path: Path, loader: str) -> None:
    if loader == "ffcv":
        pytest.importorskip("ffcv")
    options = ("--data.loader", loader, "--train.precision", "bf16", "--train.log_every", "1000")
    trainer = demo(root, digits, tmp_path / "run", *options)
    batches = iter(trainer.loaders["train"])
    trainer.model.train()
    trainer.bar = training_bar(trainer.plan.total_steps, 0)
    for _ in range(3):  # the first steps set up kernels and buffers
        trainer.step(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(trainer.plan.steps_per_epoch - 3):
            trainer.step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.progress.step > 10
    trainer.close()


def test_records_hold_memory_and_utilisation(root: Path, digits: Path, tmp_path: Path) -> None:
    demo(root, digits, tmp_path / "run", "--train.precision", "bf16", *SHORT).fit()
    (*_, last) = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert 0 < last["peak_memory_gib"] < 80
    if device_peak(torch.device("cuda"), "bf16"):
        assert 0 < last["mfu"] < 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's and inductor's own, as on a CPU
def test_cuda_graphs_train_like_the_network_itself(root: Path, digits: Path, tmp_path: Path) -> None:
    options = (*SHORT, "--train.precision", "bf16", "--ema.decay", "0.9")
    losses = {}
    for mode in ("off", "reduce-overhead"):
        run = demo(root, digits, tmp_path / mode, *options, "--train.compile", mode)
        assert run.state.context.compile == mode
        result = run.fit()
        records = read_records(tmp_path / mode / "metrics.jsonl")
        losses[mode] = [record["train/loss"] for record in records if "train/loss" in record]
        assert result["test/top1"] >= 0.7
    assert losses["reduce-overhead"] == pytest.approx(losses["off"], rel=0.05)


def test_accumulated_gradients_keep_cuda_graphs_off(root: Path, digits: Path, tmp_path: Path) -> None:
    options = ("--train.compile", "reduce-overhead", "--train.max_device_batch", "16")
    run = demo(root, digits, tmp_path / "run", *options)
    assert run.state.context.compile == "full"
    run.close()
