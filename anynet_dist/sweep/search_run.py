"""A search on one machine: worker processes as for a population, and what came out at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anynet_dist.sweep.population import read_population, write_results
from anynet_dist.sweep.progress import collect
from anynet_dist.sweep.proposals import Proposals
from anynet_dist.sweep.runner import Crew
from anynet_dist.sweep.search import MEMBER, Plan, begin_search
from anynet_dist.sweep.space import Space
from anynet_dist.system.errors import RunError, UserError
from anynet_dist.system.files import write_json

PARETO = "pareto.json"


def search(
    folder: Path,
    space_file: Path,
    space: Space,
    plan: Plan,
    base: Mapping[str, Any],
    parallel: int | None = None,
    attempts: int = 3,
) -> str:
    """Search a space until as many networks as planned were trained, and say what came out.

    A second call goes on where the first was interrupted; one beside it, here or on another machine that sees
    the folder, shares the work. Raises StoppedEarly when it was asked to stop, RunError where the workers
    cannot go on, UserError for wrong arguments.
    """
    if min(attempts, 1 if parallel is None else parallel) < 1:
        raise UserError("--parallel and --attempts must be at least 1")
    begin_search(folder, space_file, space, plan, base)
    crew = _SearchCrew(folder, parallel, attempts)
    with crew.forwarding_signals():
        crew.work()
    write_results(folder, collect(folder))
    return outcome(crew.proposals)


class _SearchCrew(Crew):
    """Workers that draw their members themselves."""

    def __init__(self, folder: Path, parallel: int | None, attempts: int) -> None:
        self.proposals = Proposals(folder)
        super().__init__(folder, _members(folder), parallel, attempts)
        self.total = self.proposals.plan.trials

    def _untaken(self) -> int:
        self.members = _members(self.folder)
        return self.proposals.unclaimed() + max(0, self.total - len(self.proposals.members()))

    def _check_hope(self, place: int, code: int) -> None:
        if code > 0:  # it was not killed, but could not go on
            lines = self._log(place).read_text(encoding="utf-8", errors="replace").splitlines()
            why = [line.partition("error: ")[2] for line in lines if line.startswith("anynet: error:")]
            raise RunError("\n".join(why[-1:]) or f"a worker failed: see {self._log(place)}")


def _members(folder: Path) -> list[str]:
    return [member.id for member in read_population(folder).members]


def outcome(proposals: Proposals) -> str:
    """How many trials ended how, and the best network, or, of several objectives, the Pareto front.

    The front is written to pareto.json too.
    """
    states = Counter(trial.state.name.lower() for trial in proposals.members())
    refused = proposals.refusals()
    lines = [
        f"{states.total()} trials: {states['complete']} finished, {states['pruned']} pruned,"
        f" {states['fail']} failed"
    ]
    lines += [f"  {number:,} draws refused: {reason}" for reason, number in refused.most_common(6)]
    front = [] if not states["complete"] else _front(proposals)
    if len(proposals.plan.objectives) > 1:
        write_json(proposals.folder / PARETO, front)
        lines.append(f"Pareto front, {len(front)} networks, in {proposals.folder / PARETO}:")
    elif front:
        lines.append("best:")
    return "\n".join([*lines, *(_line(each) for each in front)])


def _front(proposals: Proposals) -> list[dict[str, Any]]:
    """The networks that no other one beats in all objectives, by the first objective; of one, the best."""
    objectives = proposals.plan.objectives
    trials = proposals.study.best_trials if len(objectives) > 1 else [proposals.study.best_trial]
    found = [
        {"id": trial.user_attrs[MEMBER], "values": dict(zip(objectives, trial.values, strict=True))}
        for trial in trials
    ]
    return sorted(found, key=lambda each: (each["values"][objectives[0]], each["id"]), reverse=True)


def _line(entry: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {value:.6g}" for name, value in entry["values"].items())
    return f"  {entry['id']}  {values}"
