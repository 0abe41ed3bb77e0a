import subprocess
from dataclasses import replace
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


@pytest.mark.parametrize(
    ("site", "facts", "expected"),
    [
        ({"gpu_type": "a100"}, {}, {"--gpus-per-node=a100:8"}),
        ({"gpu_type": "a100"}, {"gpus_per_node": 2}, {"--gpus-per-node=a100:2", "--cpus-per-task=8"}),
        ({"gpu_type": "a100"}, {"gpus_per_node": 2, "gpu_type": "h100"}, {"--gpus-per-node=h100:2"}),
        ({"gpu_type": "a100", "gpu_option": "gres"}, {}, {"--gres=gpu:a100:8"}),
        ({}, {"gpus_per_node": 2, "gpu_option": "gres"}, {"--gres=gpu:2"}),
        # SLURM takes the last of several --gres, so they become one
        ({"gpu_option": "gres"}, {"sbatch_options": ("--gres", "tmpfs:9G")}, {"--gres=gpu:8,tmpfs:9G"}),
        ({}, {"sbatch_options": ("--gres=tmpfs:9G",)}, {"--gpus-per-node=8", "--gres=tmpfs:9G"}),
    ],
)
def test_gpus_are_asked_for_as_the_cluster_wants_it(
    site: dict[str, Any], facts: dict[str, Any], expected: set[str]
) -> None:
    words = command(replace(SITE, **site), **facts)
    assert {word for word in words if word.startswith(("--gpus", "--gres"))} <= expected <= set(words)


def test_a_node_without_gpus_asks_for_none() -> None:
    assert "--gpus-per-node=0" in command(replace(SITE, gpus_per_node=0))
    words = command(replace(SITE, gpus_per_node=0, gpu_option="gres"))
    assert not [word for word in words if "gres" in word or "gpus" in word]


def test_no_template_asks_for_gpus_in_one_of_the_two_ways(root: Path) -> None:
    """It could not be taken back on the command line, where a cluster requires the other."""
    for template in (root / "slurm").glob("*.sbatch"):
        lines = [line for line in template.read_text().splitlines() if line.startswith("#SBATCH")]
        assert lines
        assert not [line for line in lines if "gpu" in line or "gres" in line]


@pytest.mark.parametrize(
    ("site", "gpus", "expected"),
    [
        ({}, "--gpus-per-node=1", "--cpus-per-task=4"),
        ({"gpu_type": "a100"}, "--gpus-per-node=a100:1", "--cpus-per-task=4"),
        ({"gpus_per_node": 0}, "--gpus-per-node=0", "--cpus-per-task=4"),
        ({"memory": "800G"}, "--gpus-per-node=1", "--mem=102400M"),
    ],
)
def test_a_member_of_a_sweep_takes_one_gpu(
    tmp_path: Path, site: dict[str, Any], gpus: str, expected: str
) -> None:
    members = tmp_path / "members.txt"
    members.write_text("--optim.lr 1\n")
    assert {gpus, expected} <= set(command(replace(SITE, **site), members=members))
    assert "--gpus-per-node=2" in command(members=members, gpus_per_node=2)


@pytest.mark.parametrize(
    ("memory", "gpus", "expected"),
    [("800G", 8, "800G"), ("800G", 2, "204800M"), ("1000", 2, "250M"), ("1T", 4, "524288M"), ("0", 2, "0")],
)
def test_a_job_asks_for_its_share_of_a_nodes_memory(memory: str, gpus: int, expected: str) -> None:
    assert f"--mem={expected}" in command(replace(SITE, memory=memory), gpus_per_node=gpus)
    assert "--mem=5G" in command(replace(SITE, memory=memory), gpus_per_node=gpus, memory="5G")


def test_the_command_line_has_precedence_over_the_site() -> None:
    facts = {"account": "a", "partition": "p", "qos": "q", "sbatch_options": ("--mail-type=END",)}
    site = replace(SITE, account="x", qos="x", sbatch_options=("--mail-type=NONE",))
    words = command(site, **facts)
    assert {"--account=a", "--partition=p", "--qos=q"} <= set(words)
    assert words.index("--mail-type=NONE") < words.index("--mail-type=END")  # sbatch takes the last


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
