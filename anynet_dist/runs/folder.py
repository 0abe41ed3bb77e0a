"""The folder of a run: where each file is, and whether a new run may use it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from anynet_dist.config.schema import Config
from anynet_dist.runs.file_names import MODEL
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_json

PLUGINS = "plugins"
CHECKPOINT_NAME = re.compile(r"(replaced_)?step_\d+")


@dataclass(frozen=True)
class RunFolder:
    """Everything a run writes lies under `path`."""

    path: Path
    check_owner: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    """Called before anything is written that only the owner may write; raises LostLockError where another
    process has taken the folder over."""

    @property
    def config(self) -> Path:
        """The resolved config, which starts the same run again."""
        return self.path / "config.yaml"

    @property
    def description(self) -> Path:
        """How to build the network that the checkpoints hold."""
        return self.path / "network.json"

    @property
    def environment(self) -> Path:
        """Versions, machine and device."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The log: one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def console(self) -> Path:
        """What rank 0 logged."""
        return self.path / "console.log"

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint, and the links `last` and `best`."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The trained network; a run that has it has finished."""
        return self.path / MODEL

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @property
    def findings(self) -> Path:
        """What the finished network gets right and wrong."""
        return self.path / "findings.json"

    @property
    def pictures(self) -> tuple[Path, ...]:
        """What the report shows, each as a picture by itself."""
        names = ("train_batch.jpg", "val_mistakes.jpg", "test_mistakes.jpg")
        return tuple(self.path / name for name in (*names, "confusion_matrix.png", "curves.png"))

    @property
    def plugins(self) -> Path:
        """Copies of the python files that register parts of the network."""
        return self.path / PLUGINS

    @property
    def status(self) -> Path:
        """The state of the run."""
        return self.path / "status.json"

    @property
    def resume_me(self) -> Path:
        """There while a run that stopped early waits to be resumed."""
        return self.path / "resume_me"

    @property
    def bad_batch(self) -> Path:
        """The images of the first step that was not finite, where that ended the run."""
        return self.path / "bad_batch"

    @property
    def profile(self) -> Path:
        """Traces of training steps."""
        return self.path / "profile"

    @property
    def stacks(self) -> Path:
        """Where each rank stood when the run hung, or when it was asked with SIGQUIT."""
        return self.path / "stacks"

    @property
    def trackers(self) -> Path:
        """What trackers other than Weights & Biases and TensorBoard write here, a folder each."""
        return self.path / "trackers"

    @property
    def lock(self) -> Path:
        """Held by the process that uses the folder."""
        return self.path / "run.lock"

    @property
    def marker(self) -> Path:
        """Marks that the folder is a run's, so that a later run may remove what this one has written."""
        return self.path / ".anynet_run.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of a run."""
        return (
            self.config,
            self.description,
            self.environment,
            self.metrics,
            self.console,
            self.weights,
            self.status,
            self.resume_me,
            self.report,
            self.findings,
            *self.pictures,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of a run."""
        return (
            self.checkpoints,
            self.bad_batch,
            self.profile,
            self.stacks,
            self.path / "wandb",
            self.path / "tensorboard",
            self.trackers,
        )

    def holds_a_run(self) -> bool:
        """Whether a run has left something here that would be lost."""
        return bool(self.remains())

    def remains(self) -> list[str]:
        """What of a run would be lost. Not its records, as long as it has not saved a checkpoint: a run that
        starts again writes the same."""
        found = [self.weights.name] if self.weights.exists() else []
        if _holds_checkpoints(self.checkpoints):
            found.append(f"{self.checkpoints.name}/")
        if self.saved_before() and self.metrics.exists() and self.metrics.stat().st_size:
            found.append(self.metrics.name)
        return found

    def saved_before(self) -> bool:
        """Whether a run has saved a checkpoint here, according to the mark."""
        try:
            return bool(json.loads(self.marker.read_bytes())["saved"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):  # damaged: better too careful
            return True

    def mark(self, saved: bool) -> None:
        """Mark the folder as a run's, and whether it has saved a checkpoint."""
        write_json(self.marker, {"format": 1, "saved": saved})

    def foreign(self) -> list[str]:
        """Names that a run would write to, in a folder without the mark of a run."""
        if self.marker.exists():
            return []
        return [path.name for path in (*self.files, *self.folders, self.plugins) if os.path.lexists(path)]


def _holds_checkpoints(folder: Path) -> bool:
    try:
        return any(CHECKPOINT_NAME.match(path.name) for path in folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError:  # there is something, though it cannot be seen
        return True


def folder_of(config: Config) -> RunFolder:
    """The run folder a config names: run.dir, else runs/NAME."""
    return RunFolder(Path(config.run.dir or Path("runs") / (config.run.name or "run")))


def check_folder(folder: RunFolder, config: Config) -> None:
    """Raise UserError when the folder is not a run's, or holds a run that the config neither continues nor
    overwrites."""
    if os.path.lexists(folder.path) and not folder.path.is_dir():
        raise UserError(f"{folder.path} is not a folder; choose another with --run.dir")
    goes_on = continues(folder, config.run.resume)
    foreign = folder.foreign()
    # Runs of versions without the mark have checkpoints with a manifest: those may be resumed.
    if foreign and not (goes_on and any(folder.checkpoints.glob("*/manifest.json"))):
        raise UserError(
            f"{folder.path} is not the folder of a run, and {', '.join(foreign)} in it would be overwritten:"
            " choose another folder with --run.dir or --run.name, or move what is there"
        )
    if config.run.overwrite or goes_on or not folder.holds_a_run():
        return
    state = "a finished run" if folder.weights.exists() else "an unfinished run"
    raise UserError(
        f"{folder.path} already holds {state}: resume from its last checkpoint with --resume auto,"
        f" start from scratch with --run.overwrite true, or choose another folder with --run.dir"
    )


def continues(folder: RunFolder, resume: str) -> bool:
    """Whether run.resume continues the run in the folder, if there is one."""
    if resume in ("auto", "never"):
        return resume == "auto"
    return Path(resume).resolve().is_relative_to(folder.path.resolve())


def clear_folder(folder: RunFolder) -> None:
    """Remove what an earlier run wrote, but for its checkpoints; leave everything else that lies there.

    Does nothing in a folder that does not bear the mark of a run.
    """
    if not folder.marker.exists():
        return
    for name in _kept_plugins(folder):
        (folder.plugins / name).unlink(missing_ok=True)
    for file in folder.files:
        file.unlink(missing_ok=True)
    for directory in folder.folders:
        if directory != folder.checkpoints:
            shutil.rmtree(directory, ignore_errors=True)


def _kept_plugins(folder: RunFolder) -> list[str]:
    """The names of the copies that the earlier run made; what else lies in the folder is not its own."""
    try:
        plugins = json.loads(folder.description.read_bytes())["plugins"]
        return [Path(plugin).name for plugin in plugins if Path(plugin).parent == Path(PLUGINS)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
