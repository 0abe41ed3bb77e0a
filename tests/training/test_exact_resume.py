"""A run that was stopped anywhere and went on is the run that was never stopped, to the bit."""

from pathlib import Path

import pytest
import torch

from anynet_dist.config import load_config
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import StoppedEarly
from anynet_dist.training.trainer import Trainer
from tests.training.conftest import assert_same_run, signal_in_step, tensors_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

EVERYTHING = (
    *(
        "--train.epochs",
        "3",
        "--train.max_device_batch",
        "12",
        "--train.stochastic_depth",
        "0.3",
        "--model.dropout",
        "0.2",
        "--ema.decay",
        "0.9",
    ),
    *("--data.augment.mixup", "0.2", "--data.augment.cutmix", "1", "--data.augment.cutout", "4"),
    *("--data.start_res", "8", "--data.res_ramp", "0", "2", "--train.log_every", "2"),
)


@pytest.fixture(params=["torch", "ffcv"])
def options(request: pytest.FixtureRequest, blob_betons: Path) -> tuple[str, ...]:
    """Accumulation, mixing, dropout of features and branches, an average, growing images; either loader."""
    if request.param == "torch":
        return (*EVERYTHING, "--data.loader", "torch", "--data.workers", "1")
    pytest.importorskip("ffcv")
    paths = ("--data.train", str(blob_betons / "train.beton"), "--data.test", str(blob_betons / "val.beton"))
    return (*EVERYTHING, "--data.loader", "ffcv", *paths)


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


def test_from_each_step_on_a_resumed_run_ends_the_same(
    blobs_config: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    saving = ("--checkpoint.every", "1 step", "--checkpoint.keep_last", "100")
    trainer(blobs_config, *options, *saving, "--run.dir", str(tmp_path / "whole")).fit()
    whole = tmp_path / "whole" / "checkpoints"
    assert sorted(path.name for path in whole.glob("step_*")) == [f"step_{n:08d}" for n in range(1, 10)]
    for step in (1, 2, 3, 5, 8):
        run = tmp_path / f"from_{step}"
        resume = ("--resume", str(whole / f"step_{step:08d}"), "--run.dir", str(run))
        trainer(blobs_config, *options, *resume).fit()
        first, again = tensors_of(whole / "last"), tensors_of(run / "checkpoints" / "last")
        assert [name for name in first if not torch.equal(first[name], again[name])] == []
        progress = [read_progress(path / "last") for path in (whole, run / "checkpoints")]
        assert (progress[0].best, progress[0].best_epoch) == (progress[1].best, progress[1].best_epoch)


def test_a_run_stopped_by_signals_again_and_again_leaves_the_log_of_one_never_stopped(
    blobs_config: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    trainer(blobs_config, *options, "--run.dir", str(tmp_path / "whole")).fit()
    for steps_later in (1, 2, 1):
        part = trainer(blobs_config, *options, "--resume", "auto")
        signal_in_step(part, part.progress.step + steps_later)
        with pytest.raises(StoppedEarly, match=r"SIGTERM.*--run\.resume auto resumes it"):
            part.fit()
        assert part.progress.step < 9
    trainer(blobs_config, *options, "--resume", "auto").fit()
    assert_same_run(tmp_path / "whole", tmp_path / "run")
