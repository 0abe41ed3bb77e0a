"""The settings of slurm/site.sh, which are particular to a cluster."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from anynet_dist.cluster.requests import check_memory, check_words, parse_gpus
from anynet_dist.cluster.time_limit import limit_seconds
from anynet_dist.system.errors import UserError, nearest_name
from anynet_dist.system.files import require_regular_file

# bash itself reads the file. Of each variable come back its name, whether it is a list, the number of
# its words and the words, separated by zero bytes, which none of them can hold.
READ = r"""
set -euo pipefail
source "$1" >&2
set +u
mapfile -t names < <(compgen -v ANYNET_)
for name in "${names[@]}"; do
    list=$([[ $(declare -p "$name") == "declare -a"* ]] && echo list || true)
    all="$name[@]"
    words=("${!all}")
    printf '%s\0' "$name" "$list" "${#words[@]}" "${words[@]}"
done
"""
ELSEWHERE = ("ANYNET_CACHE", "ANYNET_MAX_IMAGE_PIXELS", "ANYNET_SIDECARS")
"""What a site may export, though no job is made of it."""
IN_JOBS_ONLY = re.compile(r"(SLURM_|SLURMD_|SRUN_|CUDA_)\w+|TMPDIR")
MOST_ABSENT = 50


def _checked(check: Callable[[str], Any]) -> AfterValidator:
    """The string stays as it is, once `check` has raised no ValueError."""

    def validate(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise PydanticCustomError("setting", "{message}", {"message": str(error)}) from None
        return text

    return AfterValidator(validate)


YesOrNo = Literal["yes", "no"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The settings, each named ANYNET_ and its own name in capitals; strings are empty where it is not set.

    All are checked here. Those from `max_restarts` on are used on the nodes, by slurm/common.sh.
    """

    account: str = ""
    partition: str = ""
    qos: str = ""
    time: Annotated[str, _checked(limit_seconds)] = ""
    memory: Annotated[str, _checked(check_memory)] = ""
    """Of a node."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """None leaves it to SLURM."""
    gpu_type: str = ""
    """Written before their number: `a100:4`."""
    gpu_option: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    cpus_per_gpu: Annotated[int, Field(ge=1)] | None = None
    processes_per_node: Annotated[int, Field(ge=1)] | None = None
    signal: Literal["USR1", "USR2", "HUP"] = "USR1"
    signal_seconds: Annotated[int, Field(ge=0, le=65535)] = 180
    sbatch_options: tuple[str, ...] = ()
    """Further options for sbatch."""

    max_restarts: Annotated[int, Field(ge=0)] = 20
    modules: str = ""
    venv: str = ""
    conda_env: str = ""
    container: str = ""
    container_runtime: Literal["pyxis", "apptainer", "singularity"] = "pyxis"
    container_mounts: str = ""
    container_options: tuple[str, ...] = ()
    accelerate_config: str = ""
    preflight: YesOrNo = "no"
    stage_dir: str = ""
    stage_keep: YesOrNo = "yes"

    absent: tuple[str, ...] = ()
    """Variables that the file uses and that were not set when it was read."""

    @property
    def doubtful(self) -> list[str]:
        """Those of the absent variables that not every job has."""
        return [name for name in self.absent if not IN_JOBS_ONLY.fullmatch(name)]


NOT_IN_THE_FILE = ("gpu_type", "absent")
FIELDS = tuple(Site.__dataclass_fields__)
IN_JOBS = FIELDS[FIELDS.index("max_restarts") :]
LISTS = ("sbatch_options", "container_options")
VARIABLES = {field: f"ANYNET_{field.upper()}" for field in FIELDS if field not in NOT_IN_THE_FILE}


def read_site(path: Path) -> Site:
    """Let bash read the settings.

    Variables that only a job has (SLURM_TMPDIR) may be used for what is needed in jobs only. Raises UserError
    where bash cannot read the file, where it sets what is no setting, or where a value makes no sense.
    """
    require_regular_file(path)
    if not path.is_file():
        raise UserError(f"{path}: there are no such settings; copy slurm/site.example.sh and change it")
    found, absent = _run(path)
    problems = [*_unknown(path, found), *_misshapen(path, found)]
    given: dict[str, Any] = {}
    for field, variable in VARIABLES.items():
        _, words = found.get(variable, (False, []))
        for name in absent:
            if any(f"${name}" in word for word in words) and field not in IN_JOBS:
                problems.append(f"{path}: {variable}: ${name} is not set here, where jobs are submitted")
        if any(words):
            given[field] = tuple(word for word in words if word) if field in LISTS else words[0]
    _split_gpus(given)
    try:
        site = _adapter().validate_python({**given, "absent": absent})
    except ValidationError as error:
        raise UserError("\n".join([*problems, *(_told(path, wrong) for wrong in error.errors())])) from None
    if problems:
        raise UserError("\n".join(problems))
    check_words(site.sbatch_options, f"{path}: ANYNET_SBATCH_OPTIONS")
    return site


def _run(path: Path) -> tuple[dict[str, tuple[bool, list[str]]], tuple[str, ...]]:
    """All ANYNET_ variables after the file was read, and the unset variables that it uses.

    Each of those stands for itself, as $NAME: so values that are made of it are known.
    """
    command = ["bash", "-c", READ, "bash", str(path.resolve())]
    absent: dict[str, str] = {}
    while True:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **absent}
        done = subprocess.run(
            command, capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL
        )
        if done.returncode == 0:
            return _variables(os.fsdecode(done.stdout)), tuple(absent)
        said = os.fsdecode(done.stderr).strip()
        unset = re.search(r": ([A-Za-z_]\w*): unbound variable$", said, flags=re.MULTILINE)
        name = unset.group(1) if unset else "ANYNET_"
        if name.startswith("ANYNET_") or name in absent or len(absent) == MOST_ABSENT:
            raise UserError(f"{path}: bash cannot read it: {said}")
        absent[name] = f"${name}"


def _variables(text: str) -> dict[str, tuple[bool, list[str]]]:
    found: dict[str, tuple[bool, list[str]]] = {}
    words = iter(text.split("\0")[:-1])
    for name in words:
        is_list = next(words) == "list"
        found[name] = is_list, [next(words) for _ in range(int(next(words)))]
    return found


def _unknown(path: Path, found: dict[str, tuple[bool, list[str]]]) -> list[str]:
    """What the file sets without effect; what the shell had before is not the file's."""
    known = [name.removeprefix("ANYNET_") for name in (*VARIABLES.values(), *ELSEWHERE)]
    problems = []
    for name in found:
        if name.removeprefix("ANYNET_") not in known and name not in os.environ:
            nearest = nearest_name(name.removeprefix("ANYNET_"), known)
            hint = f"; did you mean 'ANYNET_{nearest}'?" if nearest else " (all are in slurm/site.example.sh)"
            problems.append(f"{path}: {name}: there is no such setting{hint}")
    return problems


def _misshapen(path: Path, found: dict[str, tuple[bool, list[str]]]) -> list[str]:
    """Lists where one string is meant, of which bash would use the first word, and the other way round."""
    problems = []
    for field, variable in VARIABLES.items():
        is_list, words = found.get(variable, (False, []))
        if is_list and field not in LISTS:
            problems.append(f'{path}: {variable}: must be one string, not a list: "{" ".join(words)}"')
        if not is_list and field in LISTS and any(" " in word for word in words):
            problems.append(f"{path}: {variable}: must be a list, one word each: ({words[0]})")
    return problems


def _split_gpus(given: dict[str, Any]) -> None:
    if "gpus_per_node" in given:
        with suppress(ValueError):  # reported by the check of the type
            gpus = parse_gpus(given["gpus_per_node"])
            given.update(gpus_per_node=gpus.count, gpu_type=gpus.type)


def _told(path: Path, problem: Any) -> str:
    field = str(problem["loc"][0])
    message = problem["msg"]
    if field == "gpus_per_node":
        message = "must be a number of GPUs, or their type and number, such as a100:4"
    shown = "" if "(got '" in message else f" (got '{problem['input']}')"
    return f"{path}: {VARIABLES[field]}: {message}{shown}"


@cache
def _adapter() -> TypeAdapter[Site]:
    return TypeAdapter(Site)
