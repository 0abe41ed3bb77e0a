"""`anynet status` among run folders of which one is damaged."""

import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.cli import main
from anynet_dist.cluster.run_files import BLOCK, LONGEST
from anynet_dist.cluster.status import RunStatus, find_runs, statuses
from tests.conftest import PATIENCE, launch_command

pytestmark = pytest.mark.slow  # they are about a run that a process of its own trains

HEALTHY, DAMAGED = "healthy", "the other"
ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "many",
    "--help",
    "\x1b[31m\n",
    [],
    {},
)
ODD_TEXTS = (
    b"",
    b"\n",
    b"\xff\xfe\x00",
    b"3",
    b"[]\n",
    b"null\n",
    b"NaN",
    b'"text"',
    b"{",
    b"{}\n",
    b'{"a": "\\ud800"}\n',
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b"9" * 10_000,
    b"\0" * (LONGEST + 2 * BLOCK),
)
FILES = (
    "status.json",
    "metrics.jsonl",
    "run.lock",
    "slurm/submitted.json",
    "slurm/8.failure",
    "checkpoints",
    "checkpoints/last",
    "config.yaml",
    "model.safetensors",
)

Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def trained(blobs: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has finished, submitted to SLURM after a job that had failed, and still locked."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ["--run.dir", run, "--data.train", blobs / "train"]
    options += ["--data.test", blobs / "val", "--data.loader", "device", "--train.global_batch", 24]
    options += ["--data.mean", "0.3", "0.3", "0.3", "--data.std", "0.2", "0.2", "0.2", "--train.epochs", 5]
    command = launch_command("train", root / "configs/digits/demo.yaml", *options, processes=1)
    subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    (run / "slurm").mkdir()
    note = {"job": "7", "time": "2020-01-01T00:00:00+00:00", "command": ["sbatch"]}
    (run / "slurm" / "submitted.json").write_text(json.dumps(note))
    (run / "slurm" / "8.failure").write_text("rank 0 on n1 ended\nwhy\n")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": None, "start": "0"}
    (run / "run.lock").write_text(json.dumps(owner))
    return run


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A folder with two runs."""
    for name in (HEALTHY, DAMAGED):
        shutil.copytree(trained, tmp_path / "runs" / name, symlinks=True)
    return tmp_path / "runs"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replaced(make: Harm) -> Harm:
    def harm(path: Path) -> None:
        remove(path)
        make(path)

    return harm


def odd_object(path: Path, generator: random.Random) -> None:
    """Put odd values into a line of a file of JSON objects."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = generator.randrange(len(lines))
    values = json.loads(lines[number])
    for name in generator.sample(sorted(values), k=min(len(values), generator.randint(1, 3))):
        values[name] = generator.choice(ODD_VALUES)
    lines[number] = json.dumps(values)
    path.write_text("\n".join(lines) + "\n")


def odd_bytes(path: Path, generator: random.Random) -> None:
    """Cut a file, or change some of its bytes."""
    content = bytearray(path.read_bytes())
    for _ in range(generator.randint(0, 5)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    path.write_bytes(content[: generator.randint(1, len(content))])


def harms(name: str, generator: random.Random) -> Iterator[Harm]:
    """What can happen to a file of a run."""
    yield remove
    yield replaced(lambda path: path.mkdir())
    yield replaced(lambda path: os.mkfifo(path))
    yield replaced(lambda path: path.symlink_to("nothing"))
    yield replaced(lambda path: path.symlink_to(path.name))
    yield replaced(lambda path: path.symlink_to("/dev/zero"))
    for text in ODD_TEXTS:
        yield replaced(lambda path, text=text: path.write_bytes(text))  # type: ignore[misc]
    if name.endswith((".json", ".jsonl", ".lock")):
        yield from [lambda path: odd_object(path, generator)] * 25
    if name.endswith((".json", ".jsonl", ".lock", ".failure")):
        yield from [lambda path: odd_bytes(path, generator)] * 10


def rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The rows of `anynet status --json` by the run's name."""
    assert main(["status", "--json", str(folder)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(row["run"]).name: row for row in found}


@pytest.mark.parametrize("name", FILES)
def test_no_damage_of_one_run_hides_another(
    runs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    healthy = rows(runs, capsys)[HEALTHY]
    assert (healthy["state"], healthy["reason"], healthy["step"]) == ("finished", None, 15)
    damaged, whole = runs / DAMAGED, runs.parent / "whole"
    damaged.rename(whole)
    # Each reads more than one that has finished: the time left, or what the failed job has said.
    state = "failed" if name.endswith(".failure") else "running"
    said = json.loads((whole / "status.json").read_text())
    (whole / "status.json").write_text(json.dumps({**said, "state": state}))
    for number, harm in enumerate(harms(name, random.Random(0))):
        shutil.copytree(whole, damaged, symlinks=True)
        harm(damaged / name)
        found = rows(runs, capsys)
        assert found[HEALTHY] == healthy, number
        assert found.keys() == {HEALTHY, DAMAGED}, number
        assert main(["status", str(runs)]) == 0
        shown = capsys.readouterr().out
        assert any(f"{HEALTHY} finished" in " ".join(line.split()) for line in shown.splitlines()), number
        assert f"{damaged} " in shown, number
        assert "\x1b" not in shown, number
        shutil.rmtree(damaged)


def damaged_status(folder: Path, name: str, content: bytes | str) -> RunStatus:
    (folder / DAMAGED / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return next(status for status in statuses(find_runs([folder])) if Path(status.run).name == DAMAGED)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", b"\xff", '{"state": 3}'])
def test_a_run_whose_state_is_lost_is_damaged(runs: Path, content: bytes | str) -> None:
    (runs / DAMAGED / "run.lock").unlink()
    status = damaged_status(runs, "status.json", content)
    assert status.state == "damaged"
    assert status.reason
    assert status.reason.startswith("status.json ")
    assert status.accuracy is not None, "metrics.jsonl is whole"


def test_a_value_that_makes_no_sense_is_left_out_and_named(runs: Path) -> None:
    said = json.loads((runs / DAMAGED / "status.json").read_text())
    status = damaged_status(runs, "status.json", json.dumps({**said, "restarts": "many", "epochs": {}}))
    assert (status.state, status.step, status.restarts, status.epochs) == ("finished", 15, 0, None)
    assert status.reason == "status.json has no valid 'restarts' (found 'many')"


def test_lines_that_are_no_records_are_passed_over_and_named(runs: Path) -> None:
    log = (runs / DAMAGED / "metrics.jsonl").read_text()
    scored = json.dumps({"time": 1.0, "test/top1": 0.25})
    odd = ('{"test/top1": "0.5"}', "3", "[]", "null", '{"test/top1": NaN}', '{"test/top1": 7}')
    for line in odd:
        status = damaged_status(runs, "metrics.jsonl", f"{log}{scored}\n{line}\n" + '{"test/top1": 0.75')
        assert (status.state, status.accuracy, status.accuracy_of) == ("finished", 0.25, "test")
        assert status.reason
        assert status.reason.startswith("metrics.jsonl ")


def test_a_long_log_is_read_from_its_end(runs: Path) -> None:
    """Through several blocks, of which each ends within a line."""
    records = [{"step": number, "train/loss": 0.5} for number in range(5 * BLOCK // 30)]
    lines = [json.dumps(record) for record in [{"test/top1": 0.25}, *records]]
    status = damaged_status(runs, "metrics.jsonl", "\n".join(lines) + "\n")
    assert (status.accuracy, status.reason) == (0.25, None)


def test_a_job_number_that_is_none_is_not_asked_for(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM refuses the whole question for one wrong number, and all other jobs would look dead."""
    asked: list[str] = []
    monkeypatch.setattr("anynet_dist.cluster.status.job_states", lambda jobs: asked.extend(jobs))
    note = {"job": "7; --all", "time": "2999-01-01T00:00:00+00:00"}
    status = damaged_status(runs, "slurm/submitted.json", json.dumps(note))
    assert asked == []
    assert status.reason == "slurm/submitted.json has no valid 'job' (found '7; --all')"


def test_a_folder_that_vanishes_is_still_a_row(runs: Path) -> None:
    found = find_runs([runs])
    shutil.rmtree(runs / DAMAGED)
    healthy, gone = statuses(found)
    assert (healthy.state, gone.state, gone.reason) == ("finished", "unknown", "the folder is gone")


def test_a_folder_s_name_is_shown_as_it_is(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / DAMAGED).rename(runs / "[red]a[bold]")
    (runs / HEALTHY).rename(runs / os.fsdecode(b"\xff\x1b[31m"))
    assert main(["status", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert f"{runs}/[red]a[bold] " in shown
    assert f"{runs}/??[31m " in shown
