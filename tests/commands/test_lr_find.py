"""`anynet lr-find`: a rate that trains, from a loss that falls and then diverges."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.training.lr_finder import LrSweep, sweep_learning_rate

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "own_logging")


def test_it_suggests_where_the_loss_falls_fastest() -> None:
    rates = np.geomspace(1e-4, 10, 101)
    falling = 2 - 1.5 / (1 + np.exp(-4 * (np.log10(rates) + 1.5)))  # steepest at 10 ** -1.5
    sweep = LrSweep(rates, falling + np.where(rates > 2, rates, 0), True)
    assert sweep.suggestion is not None
    assert 0.03 < sweep.suggestion < 0.1  # the moving average comes a few steps late
    assert sweep.suggestion < sweep.lowest < 3
    assert LrSweep(rates, np.linspace(1, 2, 101), True).suggestion is None


@pytest.mark.slow
def test_the_command_writes_a_plot_and_a_table_and_no_run(
    blobs_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "out.png"
    assert main(["lr-find", str(blobs_config), "--out", str(plot), "--steps", "40", "--max", "1000"]) == 0
    shown = capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert float(rows[0]["lr"]) == 1e-5
    assert 10 <= len(rows) <= 40
    assert "stopped where the loss diverged" in shown
    (rate,) = re.findall(r"^suggestion: --optim\.lr (\S+)$", shown, flags=re.M)
    assert 1e-4 < float(rate) < 100
    assert not (tmp_path / "run").exists()
    assert load_config(blobs_config, ["--optim.lr", rate]).config.optim.lr == float(rate)


def test_a_sweep_repeats_with_accumulated_gradients_too(blobs_config: Path) -> None:
    config = load_config(blobs_config, ["--train.max_device_batch", "12"]).config
    first, second = (sweep_learning_rate(config, 1e-4, 0.1, 10).losses for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min", "1", "--max", "0.1"), "--min must be above 0 and below --max"),
        (("--steps", "3"), "--steps must be at least 10"),
        (("--out", "plot.pdf"), "the plot is a PNG"),
        (("--optm.lr", "1"), "did you mean '--optim.lr'?"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    blobs_config: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lr-find", str(blobs_config), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_no_longer_finite_ends_the_sweep(blobs_config: Path) -> None:
    sweep = sweep_learning_rate(load_config(blobs_config).config, 1e25, 1e38, 10)
    assert sweep.diverged
    assert 1 <= len(sweep.losses) < 10
    assert np.isfinite(sweep.losses).all()
