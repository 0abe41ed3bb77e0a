import json
import os
import shutil
from pathlib import Path

import pytest

from anynet_dist.cli import main


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.sh"
    path.write_text("ANYNET_PARTITION=gpu\nANYNET_GPUS_PER_NODE=4\n")
    return path


def test_dry_run_shows_the_command_and_changes_nothing(
    blobs_config: Path, tmp_path: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", str(blobs_config), "--site", str(site), "--nodes", "2", "--dry-run", "--optim.lr", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "sbatch --parsable --job-name=blobs" in shown
    assert shown.rstrip().endswith(f"train_nodes.sbatch {tmp_path}/run {blobs_config} --optim.lr 1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], "unknown option; did you mean '--optim.lr'?"),
        (["--nodes", "0"], "argument --nodes: must be an integer >= 1, not '0'"),
        (["--members", "members.txt", "--nodes", "2"], "a member of a sweep (--members) runs on one node"),
        (["--at-once", "2"], "--at-once is for sweeps"),
        (["--overwrite"], "--overwrite is for sweeps"),
        (["--templates", "nowhere"], "nowhere/train_node.sbatch is not there"),
    ],
)
def test_mistakes_are_seen_before_anything_is_submitted(
    blobs_config: Path, site: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(blobs_config), "--site", str(site), "--dry-run", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_member_with_a_mistake_is_named(
    blobs_config: Path, tmp_path: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = tmp_path / "members.txt"
    members.write_text("--optim.lr 0.1\n# a comment\n--optim.lr fast\n")
    words = ["submit", str(blobs_config), "--site", str(site), "--members", str(members), "--dry-run"]
    assert main(words) == 2
    assert f"{members}, member 2: --optim.lr: must be a number" in capsys.readouterr().err


def test_the_members_of_earlier_jobs_are_replaced_only_when_told(
    blobs_config: Path, tmp_path: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members, earlier = tmp_path / "members.txt", tmp_path / "run" / "members.txt"
    members.write_text("--optim.lr 0.1\n")
    earlier.parent.mkdir()
    earlier.write_text("--optim.lr 0.2\n")
    words = ["submit", str(blobs_config), "--site", str(site), "--members", str(members), "--dry-run"]
    assert main(words) == 2
    assert f"{earlier} exists already: write elsewhere, or replace with --over" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    earlier.write_text("--optim.lr 0.1\n")
    assert main(words) == 0


def test_a_machine_without_slurm_says_so(
    blobs_config: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bash = shutil.which("bash")
    assert bash
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to(bash)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(["submit", str(blobs_config), "--site", str(site)]) == 2
    assert "sbatch is not installed here" in capsys.readouterr().err


def test_the_note_of_a_job_has_no_credentials(
    blobs_config: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job itself is given them; this sbatch keeps its words."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/words\necho 7\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    options = ["--model.pretrained", "https://u:pw@h/x", "--data.val_fraction", "0.5"]
    assert main(["submit", str(blobs_config), "--site", str(site), *options]) == 0
    assert "https://u:pw@h/x" in (tmp_path / "words").read_text().splitlines()
    note = json.loads((tmp_path / "run" / "slurm" / "submitted.json").read_text())
    assert (note["job"], note["command"][-4:]) == ("7", [options[0], "https://***@h/x", *options[2:]])


def test_status_prints_a_line_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text(
        '{"state": "failed", "epoch": 3, "epochs": 9, "reason": "no [b]light[/b]", "host": "h", "pid": 1}'
    )
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "failed" in shown
    assert "3/9" in shown
    assert f"{run} failed: no [b]light[/b]" in shown
