"""How far the members of a population are, read from their run folders, and what came out of them."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from anynet_dist.cluster.run_files import RunFiles
from anynet_dist.runs.metrics_log import Record, read_records
from anynet_dist.sweep.members import run_folder, training, trainings_of
from anynet_dist.sweep.population import Population, Result, read_population
from anynet_dist.system.files import write_json
from anynet_dist.system.lock import is_held

State = Literal["finished", "pruned", "running", "interrupted", "waiting", "failed"]
STATES: tuple[State, ...] = ("finished", "pruned", "running", "interrupted", "waiting", "failed")
SCORES = ("val/ema_top1", "val/top1", "test/ema_top1", "test/top1")
"""Which score of a run counts: the first that it has."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often a member was tried without getting further, in attempts/ID.json."""

    count: int = 0
    step: int = -1
    """Where its run stood when it was last tried."""
    reason: str | None = None
    """Why it failed the last time."""
    given_up: bool = False


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A population's members by state."""

    name: str
    states: dict[str, State]
    """By the training's name, which is the member's id unless it is a repeat."""
    best: Result | None
    seconds: float | None
    """Wall-clock time of a finished run, the median."""
    reasons: dict[str, str]
    """Why members failed."""

    @property
    def counts(self) -> Counter[State]:
        """How many members are in each state."""
        return Counter(self.states.values())

    @property
    def seconds_left(self) -> float | None:
        """Until all are finished, as many at a time as are running now."""
        left = sum(self.counts[state] for state in ("running", "interrupted", "waiting"))
        return None if self.seconds is None else left * self.seconds / max(1, self.counts["running"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "trainings": len(self.states),
            **{state: self.counts[state] for state in STATES},
            "seconds_left": self.seconds_left,
            "best": self.best and {"id": self.best.id, "error": self.best.error},
            "failed_members": self.reasons,
        }

    def text(self) -> str:
        """For people: a line per state, time left and the best so far."""
        lines = [f"{self.name}: {len(self.states)} trainings"]
        lines += [f"  {self.counts[state]:5}  {state}" for state in STATES]
        if self.seconds_left:
            lines.append(f"about {clock(self.seconds_left)} left")
        if self.best:
            lines.append(f"best so far: {self.best.id}, top-1 error {self.best.error:.2f} %")
        lines += [f"failed: {member}: {reason}" for member, reason in self.reasons.items()]
        return "\n".join(lines)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def overview(folder: Path) -> Overview:
    """How far a population is. Raises UserError where the folder holds none."""
    population = collect(folder)
    states: dict[str, State] = {
        name: "finished" if name in population.results else state_of(folder, name)
        for name in trainings_of(population)
    }
    times = [_seconds(folder, member) for member, state in states.items() if state == "finished"]
    known = [seconds for seconds in times if seconds is not None]
    return Overview(
        name=population.name,
        states=states,
        best=min(population.results.values(), key=lambda result: result.error, default=None),
        seconds=statistics.median(known) if known else None,
        reasons={
            member: read_attempts(folder, member).reason or "unknown"
            for member, state in states.items()
            if state == "failed"
        },
    )


def collect(folder: Path) -> Population:
    """The population of a folder with the results of all its members that have been trained."""
    population = read_population(folder)
    if population.kind == "imported":
        return population
    repeats = int(population.origin.get("repeats", 1))
    results = {}
    for member in population.members:
        known = population.results.get(member.id)
        if known is None or len(known.errors) < repeats:
            known = _result(folder, member.id, repeats)
        if known:
            results[member.id] = known
    return replace(population, results=results)


def _result(folder: Path, member: str, repeats: int) -> Result | None:
    """Of all finished trainings of a member; None before the first is."""
    names = [training(member, repeat) for repeat in range(repeats)]
    results = [result_of(folder, name) for name in names if is_finished(folder, name)]
    known = [result for result in results if result]
    if not known:
        return None
    return replace(known[0], id=member, errors=tuple(result.errors[0] for result in known))


def state_of(folder: Path, member: str) -> State:
    """The state of one member."""
    ended = end_of(folder, member)
    if ended:
        return ended
    if is_held(claim_file(folder, member)):
        return "running"
    if read_attempts(folder, member).given_up:
        return "failed"
    return "interrupted" if run_folder(folder, member).is_dir() else "waiting"


def is_finished(folder: Path, member: str) -> bool:
    """Whether a member's run has ended as it should."""
    return end_of(folder, member) == "finished"


def end_of(folder: Path, member: str) -> Literal["finished", "pruned"] | None:
    """How a member's run has ended; None for one that has not, or was cut short."""
    said = RunFiles(run_folder(folder, member)).said
    if said is None:
        return None
    return "finished" if said.state == "finished" else "pruned" if said.state == "pruned" else None


def claim_file(folder: Path, member: str) -> Path:
    """The lock of whoever trains a member."""
    return folder / "claims" / f"{member}.lock"


def result_of(folder: Path, member: str) -> Result | None:
    """The top-1 error at the end of a member's run, and along it; None where its log holds none.

    The score is the run's last on validation images, else on test images; of the moving average of the
    weights where one is kept. The last one and not the best: choosing among epochs would flatter.
    """
    records = read_records(run_folder(folder, member) / "metrics.jsonl")
    name = next(
        (name for name in SCORES if any(_score(record, name) is not None for record in records)), None
    )
    if name is None:
        return None
    points: dict[float, float] = {}
    for record in records:
        score = _score(record, name)
        if score is not None:
            points[float(record["epoch"])] = 100 * (1 - score)
    return Result(id=member, errors=(list(points.values())[-1],), curve=tuple(points.items()))


def read_attempts(folder: Path, member: str) -> Attempts:
    """How often a member has been tried; none where nothing sensible is noted."""
    try:
        return Attempts(**json.loads(_attempts_file(folder, member).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Attempts()


def write_attempts(folder: Path, member: str, attempts: Attempts) -> None:
    """Note how often a member has been tried; nothing is kept of none."""
    file = _attempts_file(folder, member)
    if attempts == Attempts():
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(exist_ok=True)
    write_json(file, asdict(attempts))


def step_of(folder: Path, member: str) -> int:
    """The step that a member's run has got to."""
    said = RunFiles(run_folder(folder, member)).said
    return -1 if said is None or said.step is None else said.step


def _attempts_file(folder: Path, member: str) -> Path:
    return folder / "attempts" / f"{member}.json"


def _score(record: Record, name: str) -> float | None:
    value = record.get(name)
    return value if isinstance(value, float | int) else None


def _seconds(folder: Path, member: str) -> float | None:
    """From the first to the last line of a run's log."""
    try:
        times = [record["time"] for record in read_records(run_folder(folder, member) / "metrics.jsonl")]
        return float(times[-1]) - float(times[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None
