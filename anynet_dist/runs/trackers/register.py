"""Trackers by name: accelerate's own, and those that plug-ins register.

    @register_tracker("mine")
    class Mine(GeneralTracker):
        name = "mine"
        requires_logging_directory = True

        def __init__(self, run_name, logging_dir): ...

The class follows `accelerate.tracking.GeneralTracker`. It is called with the project's name and, where it
requires one, a folder inside the run folder; further arguments come from `tracking.tracker_options`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TypeVar

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from anynet_dist.config.errors import Problem
from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.trackers.base import AccelerateTracker, RunFacts
from anynet_dist.runs.wandb_settings import DEFAULT_PROJECT
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.install import install_command, install_package_command
from anynet_dist.system.redaction import redact
from anynet_dist.system.registry import Registry

TrackerClass = TypeVar("TrackerClass", bound=type[GeneralTracker])

TRACKERS: Registry[type[GeneralTracker]] = Registry(
    "tracker",
    option="tracking.trackers",
    first=("run_name",),
    passed=("logging_dir",),
    base=GeneralTracker,
    free=True,
)
EXTRAS = ("wandb", "tensorboard")
"""Trackers that are an extra of this package."""
RUN_NAME = {
    "clearml": "task_name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "trackio": "name",
}
"""What accelerate's trackers call the name of a run; their first argument is the project."""


def register_tracker(name: str) -> Callable[[TrackerClass], TrackerClass]:
    """Register a subclass of accelerate's GeneralTracker under `name`."""
    return TRACKERS.register(name)


def tracker_classes() -> dict[str, type[GeneralTracker]]:
    """All trackers by name: those of accelerate, those registered there, and those registered here."""
    return {**{str(name): found for name, found in LOGGER_TYPE_TO_CLASS.items()}, **TRACKERS}


def tracker_problems(config: Config) -> Iterator[Problem]:
    """What is wrong with the names of trackers, and what is not installed, once plug-ins are loaded."""
    known = tracker_classes()
    for name in dict.fromkeys(config.tracking.trackers):
        if name not in known:
            yield Problem("tracking.trackers", str(unknown_name("tracker", name, known)))
        elif name not in EXTRAS and (missing := _missing(name)):
            yield Problem("tracking.trackers", missing)


def _missing(name: str) -> str | None:
    """What to install for one of accelerate's trackers; None where it is there. Its name is that of its
    package."""
    own = LOGGER_TYPE_TO_CLASS.get(name)
    if name in TRACKERS or own is None or own.__module__ != GeneralTracker.__module__ or find_spec(name):
        return None
    return f"needs {name}, which is not installed: {install_package_command(name)}"


def require(package: str, option: str) -> None:
    """Raise UserError where a package of one of our extras is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{option} needs {package}, which is not installed: {install_command(package)}")


def start_other(name: str, config: Config, folder: RunFolder, facts: RunFacts) -> AccelerateTracker:
    """Start a tracker other than wandb and tensorboard; raises whatever it raises."""
    found = tracker_classes()[name]
    options = dict(config.tracking.tracker_options.get(name, {}))
    if name in RUN_NAME and config.run.name:
        options = {RUN_NAME[name]: redact(config.run.name)} | options
    if getattr(found, "requires_logging_directory", False):
        logs = folder.trackers / name
        logs.mkdir(parents=True, exist_ok=True)
        options = {"logging_dir": str(logs)} | options
    tracker = found(str(options.pop("project", DEFAULT_PROJECT)), **options)
    tracker.start()
    return AccelerateTracker(tracker, config, facts)
