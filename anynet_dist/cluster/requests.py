"""What a job asks SLURM for, in SLURM's own words: GPUs, memory, and further options of sbatch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from anynet_dist.system.errors import UserError

UNITS = "KMGT"
SHORT = {
    "a": "array",
    "D": "chdir",
    "G": "gpus",
    "N": "nodes",
    "n": "ntasks",
    "o": "output",
    "t": "time",
    "W": "wait",
}
"""Names with one letter of those options of sbatch that are not free."""
GPUS = "--gpus-per-node, or --gres (in the site's settings ANYNET_GPUS_PER_NODE and ANYNET_GPU_OPTION)"
OURS = {
    "array": "--members and --at-once",
    "chdir": "the folder that you submit from",
    "gpus": GPUS,
    "gpus-per-node": GPUS,
    "gpus-per-socket": GPUS,
    "gpus-per-task": GPUS,
    "nodes": "--nodes",
    "ntasks": "--launcher (in the site's settings ANYNET_PROCESSES_PER_NODE)",
    "ntasks-per-gpu": "--launcher (in the site's settings ANYNET_PROCESSES_PER_NODE)",
    "ntasks-per-node": "--launcher (in the site's settings ANYNET_PROCESSES_PER_NODE)",
    "output": "--run.dir: the log belongs to the run folder",
    "parsable": "nothing: it is always used",
    "signal": "ANYNET_SIGNAL and ANYNET_SIGNAL_SECONDS in the site's settings",
    "test-only": "--dry-run",
    "time": "--time (in the site's settings ANYNET_TIME)",
    "wait": "anynet status",
    "wrap": "the config: the job's script is one of slurm/",
}
"""Options of sbatch that would change what the job's script and `anynet status` rely on, and what takes
their place."""


@dataclass(frozen=True)
class Gpus:
    """GPUs per node."""

    count: int
    type: str = ""
    """As the cluster calls it; empty for any."""

    def __str__(self) -> str:
        return f"{self.type}:{self.count}" if self.type else str(self.count)


def parse_gpus(text: str) -> Gpus:
    """The GPUs of `4` or `a100:4`. Raises ValueError where it is neither."""
    found = re.fullmatch(r"(?:([A-Za-z][\w.-]*):)?(\d{1,6})", text)
    if not found:
        raise ValueError(f"must be a number of GPUs, or their type and number, such as a100:4 (got '{text}')")
    return Gpus(int(found.group(2)), found.group(1) or "")


def parse_gres(text: str) -> Gpus:
    """The GPUs of `gpu:4` or `gpu:a100:4`. Raises ValueError where it is neither."""
    name, _, gpus = text.partition(":")
    if name != "gpu" or not gpus:
        raise ValueError(f"must be GPUs, such as gpu:4 or gpu:a100:4; others go to --sbatch (got '{text}')")
    return parse_gpus(gpus)


def check_memory(text: str) -> str:
    """The memory as it is. Raises ValueError where SLURM would not know what it means."""
    if not re.fullmatch(rf"\d{{1,12}}[{UNITS}]?", text, flags=re.IGNORECASE):
        raise ValueError(
            f"must be a number with a unit, such as 400G or 64000M; 0 is all of it (got '{text}')"
        )
    return text


def share_of(memory: str, gpus: int, of: int) -> str:
    """A node's memory in proportion to the GPUs that a job takes, in whole megabytes."""
    number, unit = int(memory.rstrip(UNITS + UNITS.lower())), memory[-1].upper()
    power = UNITS.index(unit) if unit in UNITS else 1  # without a unit SLURM counts megabytes
    return f"{max(1, number * 1024**power * gpus // (of * 1024))}M" if number else memory


def check_words(words: Iterable[str], where: str) -> None:
    """Raise UserError, with `where`, for words that are no options of sbatch, or ones not free."""
    for name, value in _named(words, where):
        if name in OURS:
            raise UserError(f"{where}: --{name} is not handed to sbatch; what it is for: {OURS[name]}")
        if name == "gres" and any(part.split(":")[0] == "gpu" for part in value.split(",")):
            raise UserError(f"{where}: --gres={value}: ask for GPUs with {GPUS}")


def gres_of(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The words without --gres, and what that asks for: sbatch takes only the last of several."""
    others, asked = [], []
    rest = iter(words)
    for word in rest:
        if word == "--gres":
            asked.append(next(rest, ""))
        elif word.startswith("--gres="):
            asked.append(word.removeprefix("--gres="))
        else:
            others.append(word)
    return others, asked


def _named(words: Iterable[str], where: str) -> Iterator[tuple[str, str]]:
    """Each option's long name and its value, which may be a word of its own."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or not word.strip("-"):
            raise UserError(
                f"{where}: '{word}' is no option of sbatch: they begin with -, as --mail-type=END"
            )
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
        else:
            name, value = SHORT.get(word[1], word[1]), word[2:]
            given = value
        if not given and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        yield name, value
