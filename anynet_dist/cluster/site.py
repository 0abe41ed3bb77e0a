"""The settings of slurm/site.sh, which are particular to a cluster."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from anynet_dist.system.errors import UserError
from anynet_dist.system.files import require_regular_file

VARIABLES = {
    "account": "ANYNET_ACCOUNT",
    "partition": "ANYNET_PARTITION",
    "qos": "ANYNET_QOS",
    "time": "ANYNET_TIME",
    "memory": "ANYNET_MEMORY",
    "gpus_per_node": "ANYNET_GPUS_PER_NODE",
    "cpus_per_gpu": "ANYNET_CPUS_PER_GPU",
    "processes_per_node": "ANYNET_PROCESSES_PER_NODE",
    "signal": "ANYNET_SIGNAL",
    "signal_seconds": "ANYNET_SIGNAL_SECONDS",
}

# bash itself reads the file; its words come back separated by zero bytes, which no value can hold.
READ = r"""
set -euo pipefail
source "$1" >&2
for name in "${@:2}"; do
    printf '%s\0' "${!name:-}"
done
printf '%s\0' "${ANYNET_SBATCH_OPTIONS[@]-}"
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What jobs ask for, as far as the site's settings say; texts are empty where they do not."""

    account: str = ""
    partition: str = ""
    qos: str = ""
    time: str = ""
    memory: str = ""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """None leaves it to the template."""
    cpus_per_gpu: Annotated[int, Field(ge=1)] | None = None
    processes_per_node: Annotated[int, Field(ge=1)] | None = None
    signal: Literal["USR1", "USR2", "HUP"] = "USR1"
    signal_seconds: Annotated[int, Field(ge=0)] = 180
    sbatch_options: tuple[str, ...] = ()
    """Further options for sbatch."""


def read_site(path: Path) -> Site:
    """Let bash read the settings. Raises UserError where it cannot, or where a value makes no sense."""
    require_regular_file(path)
    if not path.is_file():
        raise UserError(f"{path}: there are no such settings; copy slurm/site.example.sh and change it")
    command = ["bash", "-c", READ, "bash", str(path.resolve()), *VARIABLES.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{path}: bash cannot read it: {done.stderr.strip()}")
    words = done.stdout.split("\0")[:-1]
    given = {key: value for key, value in zip(VARIABLES, words, strict=False) if value}
    options = tuple(word for word in words[len(VARIABLES) :] if word)
    try:
        return _adapter().validate_python({**given, "sbatch_options": options})
    except ValidationError as error:
        raise UserError("\n".join(_told(path, problem) for problem in error.errors())) from None


def _told(path: Path, problem: Any) -> str:
    field = str(problem["loc"][0])
    return f"{path}: {VARIABLES[field]}: {problem['msg']} (got '{problem['input']}')"


@cache
def _adapter() -> TypeAdapter[Site]:
    return TypeAdapter(Site)
