"""Steps whose loss or gradients are not finite."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from anynet_dist.config import load_config
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.training.resilience.nonfinite import BadSteps, NotFiniteError, gradient_norm, is_finite
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

Launch = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_as_they_were(make: type) -> None:
    def train(*gradients: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        weight = nn.Parameter(torch.ones(4))
        more = {"momentum": 0.9, "nesterov": True} if make is torch.optim.SGD else {}
        optimizer = make([weight], lr=0.1, weight_decay=0.01, fused=True, **more)
        watch = BadSteps(torch.device("cpu"), optimizer)
        for gradient in gradients:
            weight.grad = torch.full((4,), gradient)
            watch.watch_gradients(gradient_norm([weight]))
            optimizer.step()
            watch.count_step()
        assert watch.read().new == sum(not torch.isfinite(torch.tensor(g)) for g in gradients)
        return weight.detach(), list(optimizer.state[weight].values())

    with_bad, without = train(float("nan"), 1.0, float("inf"), 2.0), train(1.0, 2.0)
    assert torch.equal(with_bad[0], without[0])
    assert all(torch.equal(one, other) for one, other in zip(with_bad[1], without[1], strict=True))


def test_counts_tell_the_longest_row_and_how_far_back_it_began() -> None:
    watch = BadSteps(torch.device("cpu"), torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1, fused=True))
    for bad in (0, 1, 1, 0, 1):
        watch.watch_loss(torch.tensor(float("nan") if bad else 1.0))
        watch.count_step()
    assert watch.read() == (2, 3, 4)
    for bad in (1, 0, 0):
        watch.watch_loss(torch.tensor(float("inf") if bad else 1.0))
        watch.count_step()
    assert watch.read() == (2, 1, 3), "a row goes on across readings"
    assert watch.read() == (0, 0, 0)


def test_a_few_bad_steps_are_left_out_and_counted(
    blobs_config: Path, tmp_path: Path, bad_stem: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD_STEPS", "2 4")
    trainer = Trainer(load_config(blobs_config, bad_stem).config)
    trainer.fit()
    assert is_finite(trainer.network)
    assert trainer.progress.bad_steps == 2
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert records[-1]["bad_steps"] == 2
    assert all(record["train/loss"] < 10 for record in records)


def test_too_many_in_a_row_end_the_run_with_advice_and_the_images_to_look_at(
    blobs_config: Path, tmp_path: Path, bad_stem: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD_STEPS", "2 3 4 5 6")
    options = (*bad_stem, "--train.max_bad_steps", "1", "--checkpoint.every", "1 step")
    trainer = Trainer(load_config(blobs_config, options).config)
    with pytest.raises(
        NotFiniteError, match=r"2 steps in a row were not finite, from step 2 .*lower optim\.lr"
    ):
        trainer.fit()
    run = tmp_path / "run"
    dump = load_file(run / "bad_batch" / "rank_0.safetensors")
    assert dump["0.images"].shape == (24, 3, 16, 16)
    assert dump["0.labels"].shape == (24,)
    assert dump["0.logits"].shape == (24, 3)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], "not finite" in status["reason"]) == ("failed", True)
    weights = load_file(run / "checkpoints" / "last" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_network_that_is_damaged_is_never_saved(blobs_config: Path, tmp_path: Path) -> None:
    options = ("--optim.lr", "1e20", "--train.max_bad_steps", "100", "--checkpoint.every", "1 step")
    with pytest.raises(NotFiniteError, match=r"weights or batch-norm statistics were not finite"):
        Trainer(load_config(blobs_config, options).config).fit()
    for file in (tmp_path / "run" / "checkpoints").glob("step_*/model.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())


@pytest.mark.multiprocess
@pytest.mark.slow
def test_all_ranks_end_together(
    blobs_config: Path,
    tmp_path: Path,
    bad_stem: tuple[str, ...],
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAD_STEPS", "2 3 4 5 6")
    result = launch("train", blobs_config, *bad_stem, "--train.max_bad_steps", "0", processes=2, check=False)
    assert result.returncode != 0
    assert len(re.findall(r"anynet: error: .*not finite, from step 2 ", result.stderr)) == 1
    files = {path.name for path in (tmp_path / "run" / "bad_batch").iterdir()}
    assert files == {"rank_0.safetensors", "rank_1.safetensors"}
    assert "Traceback" not in result.stderr.split("anynet: error")[0]
