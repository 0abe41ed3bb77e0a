"""What a process knows of the others before torch is imported: the launcher's environment variables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

from anynet_dist.system.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", *MEETING_PLACE)
"""What each of several processes needs."""
REMEDY = "start with accelerate launch, torchrun or a template of slurm/; unset what is left over"

# How many processes others than our launchers started: accelerate would take some for a launcher's own.
OTHER_LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun or srun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}


def world_size() -> int:
    """Number of processes in the run."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """This process's number among all, from 0."""
    return _number("RANK", 0)


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", world_size())


def is_main() -> bool:
    """Whether this is the process that speaks: rank 0."""
    return rank() == 0


def _number(name: str, default: int) -> int:
    """A variable's number; the default for one that is none, which `check_launcher` refuses."""
    text = os.environ.get(name, "")
    return int(text) if is_number(text) else default


def is_number(text: str) -> bool:
    """Whether a string is an integer as launchers write them."""
    return text.isascii() and text.isdigit() and len(text) < 10


def check_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UserError where launcher's variables are half set or contradict each other, or where several
    processes were started without any: each would train alone, and all into one folder."""
    problems = [*launcher_problems(environment), *_other_launcher(environment)]
    if problems:
        raise UserError(f"the launcher's environment variables: {'; '.join(problems)}: {REMEDY}")


def launcher_problems(environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the launcher's variables; nothing where there are none, or one process is alone."""
    if not any(name in environment for name in NUMBERS):
        return
    wrong = [name for name in NUMBERS if name in environment and not is_number(environment[name])]
    if wrong:
        yield from (f"{name}={environment[name]}: not a number" for name in wrong)
        return
    numbers = {name: int(environment[name]) for name in NUMBERS if name in environment}
    alone = numbers.get("WORLD_SIZE", 1) == 1 and numbers.get("RANK", 0) == 0 and "LOCAL_RANK" not in numbers
    if alone:
        return
    missing = [name for name in LAUNCHER if not environment.get(name)]
    if missing:
        have = ", ".join(name for name in LAUNCHER if environment.get(name))
        yield f"{have or 'LOCAL_WORLD_SIZE'} set, but not {', '.join(missing)}"
        return
    yield from _contradictions({"LOCAL_WORLD_SIZE": numbers["WORLD_SIZE"], **numbers})
    port = environment["MASTER_PORT"]
    if not is_number(port) or not 0 < int(port) < 2**16:
        yield f"MASTER_PORT={port}: not a port, 1 to 65535"


def _contradictions(numbers: dict[str, int]) -> Iterator[str]:
    for small, large in (
        ("RANK", "WORLD_SIZE"),
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("LOCAL_RANK", "WORLD_SIZE"),
    ):
        if numbers[small] >= numbers[large]:
            yield f"{small}={numbers[small]} with {large}={numbers[large]}, but ranks count from 0"
    if numbers["LOCAL_WORLD_SIZE"] > numbers["WORLD_SIZE"]:
        yield f"LOCAL_WORLD_SIZE={numbers['LOCAL_WORLD_SIZE']} with WORLD_SIZE={numbers['WORLD_SIZE']}"


def _other_launcher(environment: Mapping[str, str]) -> Iterator[str]:
    if "RANK" in environment:
        return
    for name, program in OTHER_LAUNCHERS.items():
        count = environment.get(name, "")
        if is_number(count) and int(count) > 1:
            yield f"{program} started {count} processes ({name}), but RANK and WORLD_SIZE are not set"
            return


def job_end(environment: Mapping[str, str] = os.environ) -> float | None:
    """When the SLURM job ends, in seconds since the epoch, if the environment has it.

    Raises UserError where SLURM_JOB_END_TIME is no such time.
    """
    text = environment.get("SLURM_JOB_END_TIME", "")
    if not text:
        return None
    try:
        end = float(text)
    except ValueError:
        end = math.nan
    if not math.isfinite(end):
        raise UserError(
            f"SLURM_JOB_END_TIME is '{text}', which is no time in seconds since 1970: unset it, or set"
            " --run.max_time"
        )
    return end
