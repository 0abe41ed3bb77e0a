"""The folder of a run: where each file is, and whether a new run may use it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from anynet_dist.config.schema import Config
from anynet_dist.system.errors import UserError


@dataclass(frozen=True)
class RunFolder:
    """Everything a run writes lies under `path`."""

    path: Path

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
        """The log: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def console(self) -> Path:
        """What rank 0 said."""
        return self.path / "console.log"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint, and the links `last` and `best`."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The trained network; a run that has it has finished."""
        return self.path / "model.safetensors"

    @property
    def status(self) -> Path:
        """Where the run stands."""
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
    def lock(self) -> Path:
        """Held by the process that uses the folder."""
        return self.path / "run.lock"

    def holds_a_run(self) -> bool:
        """Whether a run has left something here that would be lost."""
        return self.weights.exists() or any(self.checkpoints.glob("step_*"))


def folder_of(config: Config) -> RunFolder:
    """The run folder a config names: run.dir, else runs/NAME."""
    return RunFolder(Path(config.run.dir or Path("runs") / (config.run.name or "run")))


def check_folder(folder: RunFolder, config: Config) -> None:
    """Raise UserError when the folder holds a run that the config neither continues nor overwrites."""
    if config.run.overwrite or _continues(folder, config.run.resume) or not folder.holds_a_run():
        return
    state = "a finished run" if folder.weights.exists() else "an unfinished run"
    raise UserError(
        f"{folder.path} already holds {state}: go on from its last checkpoint with --resume auto,"
        f" start afresh with --run.overwrite true, or choose another folder with --run.dir"
    )


def _continues(folder: RunFolder, resume: str) -> bool:
    if resume in ("auto", "never"):
        return resume == "auto"
    return Path(resume).resolve().is_relative_to(folder.path.resolve())


def clear_folder(folder: RunFolder) -> None:
    """Remove what an earlier run wrote; leave everything else that lies there."""
    files = (
        folder.config,
        folder.description,
        folder.environment,
        folder.metrics,
        folder.console,
        folder.weights,
        folder.status,
        folder.resume_me,
    )
    for file in files:
        file.unlink(missing_ok=True)
    for directory in (
        folder.checkpoints,
        folder.bad_batch,
        folder.path / "wandb",
        folder.path / "tensorboard",
    ):
        shutil.rmtree(directory, ignore_errors=True)
