"""A job as a command line for sbatch: which template, what it asks for, and the words it is given.

Nothing is pasted into a script. What the job needs to know it gets as arguments, each one word, and in
two environment variables.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anynet_dist.cluster.requests import Gpus, gres_of, share_of
from anynet_dist.cluster.site import Site
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import check_outputs, read_regular_file, write_json, write_text
from anynet_dist.system.redaction import redact_values
from anynet_dist.system.shipped import shipped

TEMPLATES = shipped("slurm")
SUBMITTED = "submitted.json"
MEMBERS = "members.txt"
MOST_BYTES = 16 * 2**20
"""Of a sweep's file of members."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to run."""

    config: Path
    run: Path
    """The run folder, or with `members` the folder of the run folders."""
    name: str
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    gpus_per_node: int | None = None
    """None takes the site's, but one for a member of a sweep."""
    gpu_type: str = ""
    gpu_option: str = ""
    """gpus-per-node or gres; empty takes the site's."""
    account: str = ""
    partition: str = ""
    qos: str = ""
    memory: str = ""
    time: str = ""
    sbatch_options: tuple[str, ...] = ()
    """Further options for sbatch, after the site's."""
    tasks: bool = False
    """One task a process, without a launcher."""
    members: Path | None = None
    """A file with one member of a sweep per line."""
    workers: int = 0
    """Tasks that share the members of a population: then `config` and `run` are the population's folder."""
    at_once: int | None = None
    """Members, or workers, that run at a time."""

    @property
    def is_array(self) -> bool:
        """Whether it is an array of tasks that run one member of a sweep, or share them."""
        return bool(self.members or self.workers)


@dataclass(frozen=True)
class Submission:
    """A command line and the environment variables that it needs."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The command line as one would type it."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join(["env", *variables, *self.command])


def members_of(file: Path) -> list[str]:
    """The lines of a sweep's file that stand for members. Raises UserError where there is none."""
    try:
        lines = read_regular_file(file, MOST_BYTES).decode("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not a text file in UTF-8") from None
    members = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not members:
        raise UserError(f"{file}: has no members: one line of options per member")
    return members


def check_members(job: Job, overwrite: bool) -> None:
    """Raise UserError where the run folder holds other members, of jobs that may not have started yet."""
    copy = job.run / MEMBERS
    if job.members and not (copy.is_file() and copy.read_bytes() == job.members.read_bytes()):
        check_outputs(copy, overwrite=overwrite)


def prepare(job: Job, site: Site, site_file: Path, templates: Path = TEMPLATES) -> Submission:
    """The command that submits the job. Raises UserError where the site's settings and the job do not fit."""
    template = templates / _template(job, site)
    if not template.is_file():
        raise UserError(
            f"{template} is not there: name the folder of the templates with --templates, or leave that out"
        )
    words = [str(job.run)] if job.workers else [str(job.run), str(job.config)]
    if job.members:
        words.append(str(job.run / MEMBERS))
    command = ["sbatch", "--parsable", *_options(job, site)]
    return Submission(
        [*command, str(template), *words, *job.overrides],
        {"ANYNET_SLURM": str(templates.resolve()), "ANYNET_SITE": str(site_file.resolve())},
    )


def gpus_of(job: Job, site: Site) -> Gpus | None:
    """The GPUs of each node, as asked for; None leaves them to SLURM."""
    if job.gpus_per_node is not None:
        same_type = job.gpu_type or site.gpu_type
        return Gpus(job.gpus_per_node, same_type if job.gpus_per_node else "")
    if site.gpus_per_node is None:
        return None
    count = min(1, site.gpus_per_node) if job.is_array else site.gpus_per_node
    return Gpus(count, site.gpu_type if count else "")


def _template(job: Job, site: Site) -> str:
    if job.workers:
        return "population.sbatch"
    if job.members:
        return "sweep.sbatch"
    if job.tasks:
        return "train_tasks.sbatch"
    if job.nodes > 1:
        return "train_nodes.sbatch"
    gpus = gpus_of(job, site)
    return "train_gpu.sbatch" if gpus is None or gpus.count == 1 else "train_node.sbatch"


def _options(job: Job, site: Site) -> list[str]:
    """The options of sbatch; they have precedence over the template's."""
    logs = "%A_%a.out" if job.is_array else "%j.out"
    gpus = gpus_of(job, site)
    processes = site.processes_per_node or (gpus.count if gpus else 0) or 1
    values: dict[str, Any] = {
        "job-name": job.name,
        "output": f"{str(job.run).replace('%', '%%')}/slurm/{logs}",
        "account": job.account or site.account,
        "partition": job.partition or site.partition,
        "qos": job.qos or site.qos,
        "time": job.time or site.time,
        "nodes": job.nodes,
        "ntasks-per-node": processes if job.tasks else 1,
        "mem": job.memory or _memory(gpus, site),
        "signal": f"{site.signal}@{site.signal_seconds}",
        "export": "ALL",
    }
    if site.cpus_per_gpu:
        values["cpus-per-task"] = site.cpus_per_gpu * (1 if job.tasks else processes)
    if job.is_array:
        at_once = f"%{job.at_once}" if job.at_once else ""
        tasks = len(members_of(job.members)) if job.members else job.workers
        values["array"] = f"1-{tasks}{at_once}"
    further, asked = gres_of([*site.sbatch_options, *job.sbatch_options])
    if (job.gpu_option or site.gpu_option) == "gres":
        asked = [f"gpu:{gpus}", *asked] if gpus and gpus.count else asked
    else:
        values["gpus-per-node"] = gpus
    values["gres"] = ",".join(asked)
    return [*(f"--{name}={value}" for name, value in values.items() if value not in ("", None)), *further]


def _memory(gpus: Gpus | None, site: Site) -> str:
    """The site's memory of a node, or the part of it for a job that takes only some of the node's GPUs."""
    if not site.memory or not site.gpus_per_node or gpus is None or not 0 < gpus.count < site.gpus_per_node:
        return site.memory
    return share_of(site.memory, gpus.count, site.gpus_per_node)


def submit(job: Job, submission: Submission) -> str:
    """Hand the job in and return its number. The run folder is made, with a note of the job.

    Raises UserError with the output of sbatch where it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not installed here: submit where SLURM is, or look with --dry-run")
    logs = job.run / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    if job.members:
        write_text(job.run / MEMBERS, job.members.read_text(encoding="utf-8"))
    environment = {**_without_slurm(os.environ), **submission.environment}
    done = subprocess.run(submission.command, capture_output=True, text=True, check=False, env=environment)
    found = re.match(r"\d+", done.stdout)
    if done.returncode or not found:
        raise UserError(f"sbatch refused the job: {(done.stderr or done.stdout).strip()}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note = {"job": found.group(), "time": now, "command": redact_values(submission.command)}
    write_json(logs / SUBMITTED, note)
    return found.group()


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job that submits this one must not become those of the new one."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value
        for name, value in environment.items()
        if name in kept or not name.startswith(("SLURM_", "SRUN_"))
    }
