"""What a job asks for on the command line, and what is missing before it is submitted."""

import re
from pathlib import Path

import pytest
import yaml

from anynet_dist.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.sh"
    path.write_text("ANYNET_GPUS_PER_NODE=4\nANYNET_QOS=normal\n")
    return path


def dry_run(config: Path, site: Path, *words: str) -> int:
    return main(["submit", str(config), "--site", str(site), "--dry-run", *words])


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--gpus-per-node", "a100:2"], "--gpus-per-node=a100:2"),
        (["--gres", "gpu:a100:2"], "--gres=gpu:a100:2"),
        (["--memory", "64G"], "--mem=64G"),
        (["--qos", "fast", "--account", "me", "--partition", "p"], "--account=me --partition=p --qos=fast"),
        (["--sbatch", "--mail-type=END"], "--mail-type=END"),
        (["--sbatch=--mail-type=END"], "--mail-type=END"),
        (["--sbatch", "--mail-type=END --mail-user=me@x"], "--mail-type=END --mail-user=me@x"),
        (["--sbatch", "--exclusive", "--sbatch", "-C fast"], "--exclusive -C fast"),
        (["--sbatch", "--comment='two words'"], "'--comment=two words'"),
        (["--time", "1-12"], "--time=1-12"),
        (["--time", "UNLIMITED"], "--time=UNLIMITED"),
    ],
)
def test_options_reach_sbatch(
    blobs_config: Path, site: Path, words: list[str], shown: str, capsys: Capture
) -> None:
    assert dry_run(blobs_config, site, *words, "--optim.lr", "1") == 0
    command = capsys.readouterr().out.rstrip()
    assert f" {shown} " in command
    assert re.search(r"\.sbatch \S+ \S+ --optim\.lr 1$", command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--gpus-per-node", "a100"],
            "argument --gpus-per-node: must be a number of GPUs, or their type and",
        ),
        (
            ["--gres", "tmpfs:9"],
            "argument --gres: must be GPUs, such as gpu:4 or gpu:a100:4; others go to --s",
        ),
        (["--gres", "gpu:1", "--gpus-per-node", "1"], "not allowed with argument --gres"),
        (["--memory", "64 GB"], "argument --memory: must be a number with a unit"),
        (["--sbatch", "fast"], "--sbatch: 'fast' is no option of sbatch: they begin with -"),
        (["--sbatch", "--comment='"], "--sbatch: No closing quotation"),
        (["--sbatch", "--array=1-9"], "--sbatch: --array is not handed to sbatch; what it is for: --members"),
        (["--sbatch", "-N 4"], "--nodes is not handed to sbatch; what it is for: --nodes"),
        (["--sbatch", "-t5:00"], "--time is not handed to sbatch; what it is for: --time"),
        (["--sbatch"], "argument --sbatch: expected one argument"),
        (["--time", "soon"], "--time: must be MM, MM:SS, HH:MM:SS, D-HH"),
        (
            ["--time", "1"],
            "--time: must be longer than run.stop_margin, 60 s, or the run would save and stop",
        ),
        (
            ["--time", "3"],
            "--time: must be longer than ANYNET_SIGNAL_SECONDS, 180 s, or SLURM would signal the",
        ),
        (["--time", "30", "--run.stop_margin", "1800"], "must be longer than run.stop_margin, 1800 s"),
    ],
)
def test_what_cannot_be_asked_for(
    blobs_config: Path, site: Path, words: list[str], message: str, capsys: Capture
) -> None:
    assert dry_run(blobs_config, site, *words) == 2
    assert message in capsys.readouterr().err


def test_the_sites_time_limit_is_compared_with_the_margin(
    blobs_config: Path, site: Path, capsys: Capture
) -> None:
    site.write_text("ANYNET_TIME=2:00\nANYNET_SIGNAL_SECONDS=10\n")
    assert dry_run(blobs_config, site) == 0
    assert dry_run(blobs_config, site, "--run.stop_margin", "120") == 2
    assert f"{site}: ANYNET_TIME: must be longer than run.stop_margin, 120 s" in capsys.readouterr().err


def test_files_that_are_missing_are_named_before_a_job_waits_for_nothing(
    blobs_config: Path, tmp_path: Path, site: Path, capsys: Capture
) -> None:
    config = yaml.safe_load(blobs_config.read_text())
    config["data"]["test"] = str(tmp_path / "no.beton")
    config["plugins"] = ["mine.py"]
    blobs_config.write_text(yaml.safe_dump(config))
    words = ["--data.train", "nowhere", "--model.pretrained", "runs/gone"]
    assert dry_run(blobs_config, site, *words) == 2
    errors = capsys.readouterr().err
    assert re.search(rf"blobs\.yaml:\d+: data\.test: no such file or folder: '{tmp_path}/no\.beton'", errors)
    assert re.search(rf"blobs\.yaml:\d+: plugins: no such file or folder: '{tmp_path}/mine\.py'", errors)
    assert "--data.train: no such file or folder: 'nowhere'; if only the nodes have it, add" in errors
    assert "--model.pretrained: no such file or folder: 'runs/gone'" in errors
    assert dry_run(blobs_config, site, *words, "--no-check-data") == 0


def test_weights_that_are_downloaded_are_not_looked_for(blobs_config: Path, site: Path) -> None:
    assert dry_run(blobs_config, site, "--model.pretrained", "torchvision:resnet50") == 0


def test_a_config_without_data(blobs_config: Path, site: Path, capsys: Capture) -> None:
    config = yaml.safe_load(blobs_config.read_text())
    del config["data"]["train"]
    blobs_config.write_text(yaml.safe_dump(config))
    assert dry_run(blobs_config, site) == 2
    assert "data.train: is not set: name a .beton file or an image folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--data.train missing.beton", "--data.train: no such file or folder: 'missing.beton'"),
        ("other.yaml --optim.lr 1", "other.yaml: there is no such config file"),
        ("--run.stop_margin 600", "ANYNET_TIME: must be longer than run.stop_margin, 600 s"),
    ],
)
def test_the_member_that_lacks_something_is_named(
    blobs_config: Path, tmp_path: Path, site: Path, line: str, message: str, capsys: Capture
) -> None:
    site.write_text("ANYNET_TIME=10\n")
    members = tmp_path / "members.txt"
    members.write_text(f"--optim.lr 1\n{line}\n")
    assert dry_run(blobs_config, site, "--members", str(members)) == 2
    errors = capsys.readouterr().err
    assert f"{members}, member 2: " in errors
    assert message in errors


def test_a_missing_accelerate_config(blobs_config: Path, site: Path, capsys: Capture) -> None:
    site.write_text("ANYNET_ACCELERATE_CONFIG=launch/none.yaml\n")
    assert dry_run(blobs_config, site) == 2
    assert "ANYNET_ACCELERATE_CONFIG: no such file: 'launch/none.yaml'" in capsys.readouterr().err


def test_a_missing_config(tmp_path: Path, site: Path, capsys: Capture) -> None:
    assert dry_run(tmp_path / "none.yaml", site) == 2
    assert f"{tmp_path}/none.yaml: there is no such config file" in capsys.readouterr().err


def test_a_variable_that_jobs_may_not_have_is_mentioned(
    blobs_config: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("LOCAL_SCRATCH", raising=False)
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    site.write_text("ANYNET_STAGE_DIR=$SLURM_TMPDIR/$LOCAL_SCRATCH\n")
    assert dry_run(blobs_config, site) == 0
    assert (
        capsys.readouterr().err
        == f"note: {site} uses $LOCAL_SCRATCH, which is not set here: each job needs it\n"
    )
