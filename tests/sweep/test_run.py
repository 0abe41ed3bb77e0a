"""Training a population: members are ordinary runs, none is lost or trained twice, one failure is one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from anynet_dist.runs.metrics_log import read_records
from anynet_dist.sweep.figures import figures_of
from anynet_dist.sweep.progress import collect, is_finished, overview
from tests.conftest import PATIENCE

pytestmark = pytest.mark.slow

SPACE = """
name: tiny
stages: 2
stem_width: 8
resolution: 8
num_classes: 3
model: {stem: conv3x3_s2, strides: [1, 2]}
parameters:
  depth: {uniform: [1, 2]}
  width: {choice: [8, 16], stages: ordered}
  optim.lr: {log_uniform: [0.01, 0.1]}
"""
Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sampled(blobs_config: Path, tmp_path: Path, launch: Launch) -> Callable[..., Path]:
    """Makes a population of `n` members, with options of the run."""

    def make(n: int, *options: str) -> Path:
        space, folder = tmp_path / "tiny.yaml", tmp_path / "population"
        space.write_text(SPACE)
        launch("sweep", "sample", space, "--n", n, "--out", folder, "--config", blobs_config, *options)
        return folder

    return make


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "anynet_dist", "sweep", "run", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def steps(folder: Path, member: str) -> list[int]:
    """The steps in the log of a member's training records."""
    log = folder / "runs" / member / "metrics.jsonl"
    return [record["step"] for record in read_records(log) if "train/loss" in record] if log.exists() else []


def workers(folder: Path) -> list[psutil.Process]:
    words = ["sweep", "worker", str(folder)]
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if all(word in (process.info["cmdline"] or []) for word in words)
    ]


def test_a_member_is_an_ordinary_run(sampled: Callable[..., Path], tmp_path: Path, launch: Launch) -> None:
    folder = sampled(3, "--ema.decay", "0.9")
    said = launch("sweep", "run", folder).stdout
    assert said.count("top-1 error") == 3
    assert "3 of 3" in said
    alone = tmp_path / "alone"
    launch("train", folder / "configs" / "0001.yaml", "--run.dir", alone)
    together = load_file(folder / "runs" / "0001" / "model.safetensors")
    for name, tensor in load_file(alone / "model.safetensors").items():
        assert tensor.equal(together[name]), name
    rates = {read_records(folder / "runs" / member / "metrics.jsonl")[0]["lr"] for member in ("0000", "0001")}
    assert len(rates) == 2, "lr is a parameter of this space"
    status = json.loads(launch("sweep", "status", folder, "--json").stdout)
    assert (status["trainings"], status["finished"], status["failed"]) == (3, 3, 0)
    best = min(collect(folder).results.values(), key=lambda result: result.error)
    assert status["best"] == {"id": best.id, "error": best.error}
    assert len(best.curve) == 2
    shutil.rmtree(folder / "runs")
    assert len(collect(folder).results) == 3, "results.jsonl has them without the runs"


def test_repeats_differ_by_their_seed_alone(sampled: Callable[..., Path], launch: Launch) -> None:
    folder = sampled(2, "--repeats", "2", "--train.epochs", "1")
    assert launch("sweep", "run", folder).stdout.count("top-1 error") == 4
    seeds = [
        yaml.safe_load((folder / "runs" / name / "config.yaml").read_text())["run"].get("seed", 0)
        for name in ("0000", "0000-r2", "0001", "0001-r2")
    ]
    assert seeds == [0, 1, 0, 1]
    results = collect(folder).results
    assert [len(results[name].errors) for name in ("0000", "0001")] == [2, 2]
    records = read_records(folder / "runs" / "0001-r2" / "metrics.jsonl")
    (second,) = (record["val/top1"] for record in records if "val/top1" in record)
    assert results["0001"].errors[1] == pytest.approx(100 * (1 - second))
    (shown,) = figures_of([collect(folder)]).data["populations"]
    assert shown["noise"]["n"] == 2
    launch("sweep", "run", folder)
    assert collect(folder).results == results


def test_killed_in_the_middle_no_member_is_lost_or_trained_twice(
    sampled: Callable[..., Path], launch: Launch
) -> None:
    folder = sampled(4, "--train.epochs", "40", "--eval.every", "10")
    first = start(folder, "--parallel", "2")
    wait_until(lambda: overview(folder).best is not None, "a first one")
    wait_until(
        lambda: any(len(steps(folder, member)) > 20 for member in open_members(folder)), "a second one"
    )
    for process in (psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)):
        process.kill()
    first.communicate()
    before = {
        member: (folder / "runs" / member / "model.safetensors").stat().st_mtime_ns
        for member, state in overview(folder).states.items()
        if state == "finished"
    }
    assert before
    # Two calls on one folder share what is left.
    calls = [start(folder), start(folder)]
    for call in calls:
        output, _ = call.communicate(timeout=PATIENCE)
        assert call.returncode == 0, output
    for member in ("0000", "0001", "0002", "0003"):
        assert is_finished(folder, member)
        seen = steps(folder, member)
        assert seen == list(range(1, len(seen) + 1)), "each step once"
    for member, changed in before.items():
        assert (folder / "runs" / member / "model.safetensors").stat().st_mtime_ns == changed
    assert launch("sweep", "run", folder).stdout.count("top-1 error") == 0, "there is nothing left to do"


def open_members(folder: Path) -> list[str]:
    return [member for member, state in overview(folder).states.items() if state == "running"]


def test_a_member_that_fails_or_is_killed_costs_only_itself(
    sampled: Callable[..., Path], launch: Launch
) -> None:
    folder = sampled(3, "--train.epochs", "20")
    config = folder / "configs" / "0000.yaml"
    whole = config.read_text()
    config.write_text(whole.replace("conv3x3_s2", "conv3x3_s3"))
    call = start(folder, "--attempts", "2")
    wait_until(lambda: len(steps(folder, "0001")) > 3, "member 0001 trains")
    for worker in workers(folder):
        worker.kill()
    output, _ = call.communicate(timeout=PATIENCE)
    assert call.returncode == 1, output
    assert "1 of 3 members failed: 0000" in output
    assert "ended with exit code -9" in output
    status = json.loads(launch("sweep", "status", folder, "--json").stdout)
    assert (status["finished"], status["failed"]) == (2, 1)
    assert "conv3x3_s3" in status["failed_members"]["0000"]
    assert "did you mean 'conv3x3_s2'" in status["failed_members"]["0000"]

    config.write_text(whole)
    assert "0000" in launch("sweep", "run", folder, "--retry-failed").stdout
    assert is_finished(folder, "0000")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_members_are_saved_and_go_on(
    sampled: Callable[..., Path], launch: Launch, number: signal.Signals
) -> None:
    folder = sampled(2, "--train.epochs", "40")
    call = start(folder)
    wait_until(lambda: len(steps(folder, "0000")) > 3, "member 0000 trains")
    call.send_signal(number)
    output, _ = call.communicate(timeout=PATIENCE)
    assert call.returncode == 75, output
    assert "the same command goes on with them" in output
    assert not workers(folder)
    assert overview(folder).states == {"0000": "interrupted", "0001": "waiting"}
    launch("sweep", "run", folder)
    seen = steps(folder, "0000")
    assert seen == list(range(1, len(seen) + 1))


def test_a_published_population_cannot_be_trained(tmp_path: Path, launch: Launch) -> None:
    from anynet_dist.sweep.population import Member, Population, write_population

    write_population(
        tmp_path, Population(name="x", kind="imported", members=(Member(id="a", parameters={}),))
    )
    refused = launch("sweep", "run", tmp_path, check=False)
    assert refused.returncode == 2
    assert "networks of a published population cannot be trained" in refused.stderr
