"""The variables of launchers and schedulers: half set, empty, foreign."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.system.distributed import OTHER_LAUNCHERS, check_launcher, job_end
from anynet_dist.system.errors import UserError

WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        WHOLE,
        {**WHOLE, "PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"},
        {**WHOLE, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"MASTER_ADDR": "n1", "MASTER_PORT": ""},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # salloc without srun
        {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"},
    ],
)
def test_whole_or_absent_variables_are_fine(environment: dict[str, str]) -> None:
    check_launcher(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE set, but not LOCAL_RANK, MASTER_ADDR"),
        ({**WHOLE, "LOCAL_RANK": ""}, "LOCAL_RANK=: not a number"),
        ({**WHOLE, "RANK": "", "WORLD_SIZE": ""}, "RANK=: not a number; WORLD_SIZE=: not a number"),
        ({**WHOLE, "MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE set, but not RANK"),
        ({"RANK": "1"}, "RANK set, but not WORLD_SIZE"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK set, but not RANK"),
        ({**WHOLE, "RANK": "-1"}, "RANK=-1: not a number"),
        ({**WHOLE, "RANK": "1.0"}, "RANK=1.0: not a number"),
        ({**WHOLE, "WORLD_SIZE": "0"}, "RANK=1 with WORLD_SIZE=0"),
        ({**WHOLE, "RANK": "2"}, "RANK=2 with WORLD_SIZE=2, but ranks count from 0"),
        ({**WHOLE, "LOCAL_RANK": "2"}, "LOCAL_RANK=2 with LOCAL_WORLD_SIZE=2"),
        ({**WHOLE, "MASTER_PORT": "none"}, "MASTER_PORT=none: not a port"),
        ({**WHOLE, "MASTER_PORT": "70000"}, "MASTER_PORT=70000: not a port"),
        *(({name: "2"}, f"started 2 processes ({name})") for name in OTHER_LAUNCHERS),
    ],
)  # fmt: skip
def test_others_are_refused_in_a_sentence(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_launcher(environment)
    assert message in str(caught.value)
    assert "torchrun" in str(caught.value)


def test_the_end_of_a_job() -> None:
    assert job_end({}) is None
    assert job_end({"SLURM_JOB_END_TIME": ""}) is None
    assert job_end({"SLURM_JOB_END_TIME": "1700000000"}) == 1_700_000_000
    for garbage in ("tomorrow", "nan", "inf"):
        with pytest.raises(UserError, match=f"SLURM_JOB_END_TIME is '{garbage}'"):
            job_end({"SLURM_JOB_END_TIME": garbage})


GARBAGE = dict.fromkeys((*WHOLE, "SLURM_JOB_END_TIME", "ANYNET_STOPPED_EXIT_CODE"), "garbage")
EMPTY = dict.fromkeys(GARBAGE, "")


@pytest.mark.parametrize("variables", [GARBAGE, EMPTY])
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["train", "--help"]])
def test_version_and_help_always_work(variables: dict[str, str], words: list[str]) -> None:
    done = anynet(*words, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def anynet(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anynet_dist", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_training_with_half_set_variables_ends_at_once(blobs_config: Path, tmp_path: Path) -> None:
    done = anynet("train", str(blobs_config), RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "set, but not LOCAL_RANK" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("fresh_accelerate")
def test_accelerate_must_see_the_world_that_the_environment_says(
    blobs_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    from anynet_dist.training.distributed.accelerator import build_accelerator

    Accelerator(cpu=True)  # its process is alone for good
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"rank 1 of 2 processes .* accelerate makes this rank 0 of 1"):
        build_accelerator(load_config(blobs_config).config, "fp32", 1)
