"""Checks of what launcher, SLURM and Weights & Biases left in the environment. Shows no secrets."""

from __future__ import annotations

import netrc
import os
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlparse

from anynet_dist.doctor.findings import Finding, ok, problem, warning
from anynet_dist.system.distributed import REMEDY, is_number, job_end, launcher_problems, world_size
from anynet_dist.system.install import install_command


def check_launcher() -> Iterator[Finding]:
    """Whether the launcher's variables are all there and agree with each other."""
    wrong = list(launcher_problems(os.environ))
    for text in wrong:
        yield problem("launcher", text, REMEDY)
    if wrong:
        return
    if "RANK" not in os.environ or not os.environ.get("MASTER_ADDR"):
        yield ok("launcher", "none: one process")
        return
    where = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
    yield ok("launcher", f"{world_size()} processes meet at {where}")


def check_slurm() -> Iterator[Finding]:
    """Whether SLURM's variables agree with what this process has."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        yield ok("SLURM", "not a SLURM job")
        return
    facts = [f"job {job}", f"{os.environ.get('SLURM_JOB_NUM_NODES', '1')} nodes"]
    if end := job_end():
        facts.append(f"{(end - time.time()) / 60:.0f} minutes left")
    yield ok("SLURM", ", ".join(facts))
    yield from _slurm_cores()
    machine, node = os.environ.get("GROUP_RANK"), os.environ.get("SLURM_NODEID")
    if machine is not None and node is not None and "SLURM_STEP_ID" in os.environ and machine != node:
        yield problem(
            "SLURM",
            f"the launcher calls this machine {machine}, SLURM node {node}",
            "--machine_rank must be expanded on the node: srun bash -c '... --machine_rank $SLURM_NODEID'",
        )


def _slurm_cores() -> Iterator[Finding]:
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
    have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked.isdigit() and have < int(asked):
        yield warning(
            "SLURM",
            f"{have} cores for this task, {asked} were asked for",
            "srun takes no --cpus-per-task from sbatch: export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        )


def check_wandb() -> Iterator[Finding]:
    """Whether Weights & Biases is installed and would know who we are."""
    if find_spec("wandb") is None:
        yield ok("W&B", f"not installed; tracking.wandb needs it: {install_command('wandb')}")
    elif os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        yield ok("W&B", f"{os.environ['WANDB_MODE']} by WANDB_MODE")
    elif os.environ.get("WANDB_API_KEY") or _in_netrc():
        yield ok("W&B", "a login is there")
    else:
        yield warning(
            "W&B",
            "not logged in",
            "wandb login, or --tracking.wandb offline and wandb sync later, or none at all",
        )


def _in_netrc() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def ranks_from_slurm() -> bool:
    """Where srun started one task a process without a launcher, set the launcher's variables from SLURM's.

    The first node of the step is where ranks meet, at a port made from the job's number. Returns whether
    it did so.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1"))
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or not is_number(tasks) or int(tasks) == 1:
        return False
    here = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", tasks))
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": here.group() if here else tasks,
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or first_node(nodes),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(10000 + int(os.environ["SLURM_JOB_ID"]) % 20000),
    }
    return True


def first_node(nodes: str) -> str:
    """The first of a list such as `n[01-04,7],m1`: `n01`."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return "".join(part for part in match.groups() if part) if match else nodes
