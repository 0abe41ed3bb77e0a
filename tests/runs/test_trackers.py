"""Weights & Biases against a stand-in for its service, and without one."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from anynet_dist.runs.metrics_log import read_records
from tests.conftest import PATIENCE, Start
from tests.runs.test_metrics_log import wandb_history
from tests.runs.wandb_server import WandbServer
from tests.training.conftest import wait_for_step

pytestmark = [pytest.mark.slow]
pytest.importorskip("wandb")

Launch = Callable[..., subprocess.CompletedProcess[str]]
ONLINE = ("--tracking.wandb", "online", "--resume", "auto")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The stand-in, which this test's processes take for the service."""
    server = WandbServer()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def history(server: WandbServer) -> list[dict[str, Any]]:
    (run,) = server.runs.values()
    return [row for _, row in sorted(run.history.items())]


def steps_of_wandb(run: Path) -> list[int]:
    """The steps with a loss in the offline records on the disk."""
    return [row["global_step"] for row in wandb_history(run / "wandb") if "train/loss" in row]


def service_of(process: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if child.name().startswith("wandb-core"))


def test_a_run_that_was_preempted_goes_on_as_the_same_run_with_rising_steps(
    blobs_config: Path, tmp_path: Path, server: WandbServer, start: Start, launch: Launch
) -> None:
    options = ("--train.epochs", "150", *ONLINE)
    running = start("train", blobs_config, *options)
    wait_for_step(tmp_path / "run", 8)
    for process in (service_of(running), psutil.Process(running.pid)):  # as SLURM does, to all of a job
        process.send_signal(signal.SIGUSR1)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 75, output
    (run,) = server.runs.values()
    assert (run.preempting, run.exit_codes) == (True, [75]), output
    launch("train", blobs_config, *options, "--train.max_steps", "100")
    assert list(server.runs) == [(tmp_path / "run" / "wandb" / "id").read_text()]
    assert run.exit_codes == [75, 0]
    steps = [row["global_step"] for row in history(server) if "train/loss" in row]
    assert steps == list(range(1, 101))
    logged = [r["train/loss"] for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert [row["train/loss"] for row in history(server) if "train/loss" in row] == pytest.approx(logged)


@pytest.mark.parametrize("harm", [signal.SIGTERM, signal.SIGSTOP])
def test_a_run_outlives_its_helper_process_and_says_so_once(
    blobs_config: Path, tmp_path: Path, start: Start, harm: signal.Signals
) -> None:
    options = ("--train.epochs", "100", "--tracking.wandb", "offline", "--tracking.timeout", "5")
    running = start("train", blobs_config, *options)
    wait_for_step(tmp_path / "run", 5)
    service = service_of(running)
    service.send_signal(harm)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, output
    told = "failed and is left out from here on" if harm != signal.SIGSTOP else "did not finish within"
    assert output.count(told) == 1, output
    assert "Traceback" not in output
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 301))
    assert records[-1]["test/count"] == 37
    assert not service.is_running() or service.status() == psutil.STATUS_ZOMBIE


def test_a_service_that_is_down_leaves_the_records_to_be_sent_later(
    blobs_config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}.items():
        monkeypatch.setenv(name, value)
    result = launch("train", blobs_config, *ONLINE, "--tracking.timeout", "5")
    assert result.stdout.count("Weights & Biases is out of reach") == 1
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_login_is_told_before_training(
    blobs_config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    result = launch("train", blobs_config, *ONLINE, check=False)
    assert result.returncode == 2
    assert "tracking.wandb: online needs a login: run '" in result.stderr
    assert "wandb login', set WANDB_API_KEY" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_offline_records_are_on_the_disk_when_the_run_is_killed(
    blobs_config: Path, tmp_path: Path, start: Start
) -> None:
    running = start("train", blobs_config, "--train.epochs", "1000", "--tracking.wandb", "offline")
    wait_for_step(tmp_path / "run", 20)
    service = service_of(running)
    # By itself wandb writes every 15 s.
    assert service.environ()["WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL"] == "1"
    end = time.monotonic() + PATIENCE
    while 20 not in steps_of_wandb(tmp_path / "run"):
        assert time.monotonic() < end, "step 20 was not written"
        time.sleep(0.1)
    assert running.poll() is None
    for process in (service, psutil.Process(running.pid)):
        process.kill()
    running.communicate()
    shown = steps_of_wandb(tmp_path / "run")
    assert shown == list(range(1, max(shown) + 1))
    assert max(shown) >= 20


def test_no_secret_reaches_any_file_of_a_run(
    blobs_config: Path, tmp_path: Path, server: WandbServer, start: Start
) -> None:
    secrets = {
        "WANDB_API_KEY": server.environment["WANDB_API_KEY"],
        "HF_TOKEN": "hf_planted_in_the_environment",
    }
    secrets |= {"AWS_SECRET_ACCESS_KEY": "planted+too", "HUGGING_FACE_HUB_TOKEN": "hf_planted_as_well"}
    options = ("--tracking.tensorboard", "true", "--tracking.tags", "https://u:planted-as-tag@h", *ONLINE)
    running = start("train", blobs_config, *options, **secrets)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, output
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in (*secrets.values(), "planted-as-tag"):
        assert secret not in output
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["command"]
    assert os.environ["WANDB_API_KEY"] in secrets.values()


def test_no_credentials_of_an_option_reach_any_file_of_a_run(
    blobs_config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the config file and on the command line, in W&B's and TensorBoard's files, and in a restart."""
    secrets = {"WANDB_API_KEY": f"{'0' * 31}mark-key3", "HF_TOKEN": "hf_mark-token"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    config = yaml.safe_load(blobs_config.read_text())
    config["tracking"] = {"tags": ["https://mark-file@host/"]}
    blobs_config.write_text(yaml.safe_dump(config))
    options = ["--tracking.tags=h?token=mark-query", '["https://u:mark-json@host/"]', "s3://K:mark/slash@b"]
    options += ["--tracking.wandb", "offline", "--tracking.tensorboard", "true", "--resume", "auto"]
    launch("train", blobs_config, *options, "--train.epochs", "1")
    again = launch("train", blobs_config, *options)
    assert "changed since then: train.epochs" in again.stdout
    assert "changed since then: tracking" not in again.stdout
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "environment.json", "run_config.yaml", "console.log"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert [path for path in files if b"mark-" in path.read_bytes() or b"mark/" in path.read_bytes()] == []
    assert sum(b"https://***@host/" in path.read_bytes() for path in files) >= 6
    refused = launch("train", tmp_path / "run" / "config.yaml", check=False)
    assert refused.returncode == 2
    assert "tracking.tags: its credentials were removed when it was saved" in refused.stderr
