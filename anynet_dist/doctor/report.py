"""All checks in order, and one report of all machines."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anynet_dist.doctor import environment, machine
from anynet_dist.doctor.findings import Check, Finding, problem, run_check
from anynet_dist.system import distributed


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `anynet doctor` was asked."""

    distributed: bool = False
    """Check all ranks together."""
    run_dir: Path = Path("runs")
    """Where run folders are to lie."""
    cpu: bool = False
    """No GPU is wanted."""
    timeout_s: float = 60.0
    """How long ranks wait for each other."""


Say = Callable[[str], None]


def examine(options: Options, say: Say) -> int:
    """Run all checks and `say` what they find, on rank 0; returns the number of problems of all ranks."""
    if options.distributed:
        environment.ranks_from_slurm()
    if any(finding.level == "problem" for finding in environment.check_launcher()):
        return _print_findings(examine_machine(options), say)  # who is who cannot be known
    if not options.distributed:
        return _print_findings(examine_machine(options), say) if distributed.is_main() else 0
    if distributed.world_size() == 1:
        alone = problem(
            "ranks",
            "--distributed, but this is the only process",
            "put accelerate launch or torchrun in front, or srun with several tasks",
        )
        return _print_findings([*examine_machine(options), alone], say)
    return _examine_ranks(options, say)


def examine_machine(options: Options, first: bool = True) -> list[Finding]:
    """The findings on this machine by the first of its processes; others look at their variables alone."""
    here: list[tuple[str, Check]] = [
        ("launcher", environment.check_launcher),
        ("SLURM", environment.check_slurm),
    ]
    if first:
        here = [
            ("versions", machine.check_versions),
            ("GPUs", partial(machine.check_gpus, options.cpu)),
            ("FFCV", machine.check_ffcv),
            ("disk", partial(machine.check_disk, options.run_dir)),
            ("shm", machine.check_shared_memory),
            ("limits", machine.check_limits),
            *here,
            ("W&B", environment.check_wandb),
        ]
    return [finding for subject, check in here for finding in run_check(check, subject)]


def _examine_ranks(options: Options, say: Say) -> int:
    from anynet_dist.doctor.ranks import Meeting, check_together, describe_failure

    first = distributed.local_rank() == 0
    findings = examine_machine(options, first)
    try:
        with Meeting(options.cpu, options.timeout_s) as meeting:
            of_machines = meeting.gather((socket.gethostname(), findings))
            together = list(check_together(meeting))
    except Exception as error:  # whatever the network may raise; the others fail in the same way
        return _print_findings(
            [*findings, describe_failure(error, options.timeout_s)], say if first else _nothing
        )
    return _print_findings([*_by_machine(of_machines), *together], say if distributed.is_main() else _nothing)


def _nothing(line: str) -> None:
    """Say nothing: another rank does."""


def _by_machine(found: Iterable[tuple[str, list[Finding]]]) -> list[Finding]:
    """Each finding once, with the machines that have it unless all have."""
    hosts: dict[Finding, list[str]] = {}
    machines = []
    for host, findings in found:
        machines += [host] if host not in machines else []
        for finding in findings:
            named = hosts.setdefault(finding, [])
            named += [host] if host not in named else []
    return [
        finding
        if len(named) == len(machines)
        else Finding(finding.level, finding.subject, f"{finding.text} ({', '.join(named)})", finding.remedy)
        for finding, named in hosts.items()
    ]


def _print_findings(findings: list[Finding], say: Say) -> int:
    for finding in findings:
        say(str(finding))
    problems, warnings = (sum(f.level == level for f in findings) for level in ("problem", "warning"))
    say(f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")
    return problems


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
