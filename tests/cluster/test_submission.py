import subprocess
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.cluster.site import Site
from anynet_dist.cluster.submission import TEMPLATES, Job, prepare
from anynet_dist.system.errors import UserError

SITE = Site(partition="gpu", time="1:00:00", gpus_per_node=8, cpus_per_gpu=4)


def command(site: Site = SITE, **facts: Any) -> list[str]:
    job = Job(config=Path("c.yaml"), run=Path("runs/a"), name="a", **facts)
    return prepare(job, site, Path("site.sh")).command


@pytest.mark.parametrize(
    ("facts", "template", "options"),
    [
        ({}, "train_node", {"--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=32"}),
        ({"gpus_per_node": 1}, "train_gpu", {"--gpus-per-node=1", "--cpus-per-task=4"}),
        ({"nodes": 2}, "train_nodes", {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32"}),
        ({"nodes": 2, "tasks": True}, "train_tasks", {"--ntasks-per-node=8", "--cpus-per-task=4"}),
        ({"time": "5:00"}, "train_node", {"--time=5:00", "--partition=gpu", "--signal=USR1@180"}),
    ],
)
def test_the_template_that_fits(facts: dict[str, Any], template: str, options: set[str]) -> None:
    words = command(**facts)
    assert str(TEMPLATES / f"{template}.sbatch") in words
    assert options <= set(words)
    assert words[-2:] == ["runs/a", "c.yaml"]


def test_what_the_site_leaves_open_is_left_to_slurm() -> None:
    names = {word.partition("=")[0] for word in command(Site())}
    assert names.isdisjoint({"--account", "--qos", "--mem", "--gpus-per-node", "--cpus-per-task", "--time"})


def test_members_become_an_array(tmp_path: Path) -> None:
    members = tmp_path / "members.txt"
    members.write_text("--optim.lr 1\n\n  # not this\n--optim.lr 2")
    words = command(members=members, at_once=1)
    assert "--array=1-2%1" in words
    assert words[-4:] == [str(TEMPLATES / "sweep.sbatch"), "runs/a", "c.yaml", "runs/a/members.txt"]
    members.write_text("# none\n")
    with pytest.raises(UserError, match="has no members"):
        command(members=members)


def test_words_stay_words() -> None:
    """What --dry-run prints is, to a shell, the same words again."""
    nasty = ("--run.name", "a b", "$(touch /nowhere)", "'quoted'", "; exit", "*")
    job = Job(config=Path("c d.yaml"), run=Path("runs/100% $HOME"), name="x", overrides=nasty)
    submission = prepare(job, SITE, Path("my site.sh"))
    assert "--output=runs/100%% $HOME/slurm/%j.out" in submission.command
    script = 'sbatch() { printf "%s\\n" "$@"; }; ' + str(submission).partition(" sbatch ")[1].strip()
    script += " " + str(submission).partition(" sbatch ")[2]
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == submission.command[1:]
    assert submission.environment["ANYNET_SITE"] == str(Path("my site.sh").resolve())
