"""A search: Optuna proposes networks of a space, guided by how well those before them did.

Its folder is a population of the kind "searched". Beside the usual files it holds Optuna's journal, in which
every process that takes part in the search writes what it asked for and what came out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from anynet_dist.sweep.members import BASE, CONFIGS, base_text, write_shared
from anynet_dist.sweep.population import (
    POPULATION,
    SPACE,
    Population,
    read_population,
    write_about,
    write_population,
)
from anynet_dist.sweep.sampling import window_text
from anynet_dist.sweep.space import MEASURES, Bound, Space
from anynet_dist.sweep.space_file import read_space
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import install_command
from anynet_dist.system.lock import Lock

JOURNAL, LOCK = "journal.log", "search.lock"
POLL_S = 0.05
MEMBER, NETWORK, REFUSED = "member", "network", "refused"
"""What is noted of a trial: the member that it is, its identity; or why it is none."""

Sampler = Literal["tpe", "random"]
Pruner = Literal["asha", "hyperband", "none"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "random")
PRUNERS: tuple[Pruner, ...] = ("asha", "hyperband", "none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is to do."""

    trials: int
    """Networks in all, over all calls; what was refused before its training does not count."""
    seed: int = 0
    objectives: tuple[str, ...] = ("val/top1",)
    """Scores on validation images, as the run's log names them, and measures of complexity."""
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        if self.trials < 1:
            raise UserError(f"--trials must be at least 1, not {self.trials}")
        strange = [name for name in self.objectives if not name.startswith("val/") and name not in MEASURES]
        if strange:
            raise UserError(
                f"--objective must be a score on validation images, such as val/top1, or one of"
                f" {', '.join(MEASURES)} (got '{strange[0]}')"
            )
        if len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"--objective: {', '.join(self.objectives)} has one twice")
        if not any(name.startswith("val/") for name in self.objectives):
            raise UserError("--objective: one must be a score such as val/top1: the others need no training")
        if self.pruner != "none" and len(self.objectives) > 1:
            raise UserError(
                f"--pruner {self.pruner}: Optuna prunes only where there is one objective: take --pruner none"
            )

    @property
    def directions(self) -> list[str]:
        """Scores are maximised, losses and complexity minimised."""
        return [
            "minimize" if name in MEASURES or name.endswith("loss") else "maximize"
            for name in self.objectives
        ]


def default_pruner(objectives: tuple[str, ...]) -> Pruner:
    """ASHA where there is one objective; otherwise none."""
    return "asha" if len(objectives) == 1 else "none"


def require_optuna() -> Any:
    """The package, with its own log at WARNING. Raises UserError where it is missing."""
    try:
        optuna = import_module("optuna")
    except ImportError:
        raise UserError(
            f"a search needs optuna, which is not installed: {install_command('search')}"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def begin_search(folder: Path, space_file: Path, space: Space, plan: Plan, base: Mapping[str, Any]) -> None:
    """Make the folder of a search, or join the one that it holds; `base` are the options of all runs.

    The number of trials is the larger one of both. Raises UserError where it is another search, or there is
    nothing to train with or to validate on.
    """
    require_optuna()
    if not base:
        raise UserError("a search trains its networks: name the run config with --config CONFIG")
    if not base.get("data.val") and not base.get("data.val_fraction"):
        raise UserError(
            "a search compares scores on validation images, and this config has none: set data.val or"
            " data.val_fraction"
        )
    population = Population(name=space.name, kind="searched", members=(), origin=_origin(space, plan))
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if (folder / POPULATION).exists():
            _join(folder, population)
            _check_same(folder / SPACE, space_file.read_text(encoding="utf-8"), "another space")
            _check_same(folder / CONFIGS / BASE, base_text(base), "runs with other options")
        else:
            write_shared(folder, space_file, base)
            write_population(folder, population)


def _origin(space: Space, plan: Plan) -> dict[str, Any]:
    bounds = {measure: asdict(bound) for measure, bound in space.window.items()}
    origin = {
        "seed": plan.seed,
        "window": window_text(space),
        "bounds": {  # JSON has no infinity
            measure: {name: value for name, value in bound.items() if value < math.inf}
            for measure, bound in bounds.items()
        },
        "degrees_of_freedom": space.degrees_of_freedom,
        "resolution": space.resolution,
        **asdict(plan),
    }
    copied: dict[str, Any] = json.loads(json.dumps(origin))
    return copied


def _join(folder: Path, ours: Population) -> None:
    """Take part in the search of a folder where it is the same one."""
    theirs = read_population(folder)
    if theirs.kind != "searched":
        raise UserError(f"{folder} holds a {theirs.kind} population: name another folder")
    trials = max(ours.origin["trials"], theirs.origin["trials"])
    began, asked = ({**each.origin, "space": each.name, "trials": trials} for each in (theirs, ours))
    differences = [
        f"{key}: {began.get(key)}, not {value}"
        for key, value in asked.items()
        if began.get(key) != value and key != "bounds"  # which the window shows
    ]
    if differences:
        raise UserError(
            f"{folder} holds another search ({'; '.join(differences)}): go on as it began, or name another"
            " folder"
        )
    write_about(folder, replace(theirs, origin={**theirs.origin, "trials": trials}))


def _check_same(file: Path, text: str, other: str) -> None:
    if text != file.read_text(encoding="utf-8"):
        raise UserError(f"{file} is of a search with {other}: go on as it began, or name another folder")


def read_search(folder: Path) -> tuple[Space, Plan]:
    """The space and the plan of a search's folder. Raises UserError where it holds none."""
    population = read_population(folder)
    if population.kind != "searched":
        raise UserError(f"{folder} holds a {population.kind} population, and no search")
    origin = population.origin
    bounds = {measure: Bound(**bound) for measure, bound in origin["bounds"].items()}
    space = replace(read_space(folder / SPACE), name=population.name, window=bounds)
    plan = Plan(
        trials=origin["trials"],
        seed=origin["seed"],
        objectives=tuple(origin["objectives"]),
        sampler=origin["sampler"],
        pruner=origin["pruner"],
    )
    return space, plan


def open_study(folder: Path, name: str, plan: Plan) -> Any:
    """Optuna's study of a search, which any number of processes may have open.

    The journal is locked by making a file exclusively, which NFS has been able to since version 3. Optuna's
    other lock, a link to the journal, never counts as abandoned where the folder's path is a relative one.
    """
    optuna = require_optuna()
    journal = optuna.storages.journal
    file = str((folder / JOURNAL).absolute())
    backend = journal.JournalFileBackend(file, lock_obj=journal.JournalFileOpenLock(file))
    return optuna.create_study(
        study_name=name,
        storage=optuna.storages.JournalStorage(backend),
        directions=plan.directions,
        load_if_exists=True,
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """As the only process that asks for trials of this search; waits for it."""
    while True:
        try:
            lock = Lock(folder / LOCK, f"{folder} is being searched")
        except UserError:
            time.sleep(POLL_S)
        else:
            break
    with lock:
        yield
