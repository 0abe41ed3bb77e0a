"""Checkpoints: whole folders, written under a temporary name and renamed when complete."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_model
from torch import nn

from anynet_dist.system.errors import UserError
from anynet_dist.system.files import flush, write_json
from anynet_dist.training.ema import WeightAverage
from anynet_dist.training.weights import write_tensors

logger = logging.getLogger(__name__)

NETWORK, AVERAGE, PROGRESS = "model.safetensors", "ema.safetensors", "progress.json"


@dataclass(kw_only=True)
class Progress:
    """How far a run has come: what a checkpoint needs beside weights, optimizer and random states."""

    epoch: int = 0
    """Epochs completed."""
    step_in_epoch: int = 0
    """Global batches of the current epoch already used."""
    step: int = 0
    """Global batches used in all: the x-axis of every curve."""
    skipped: int = 0
    """Of those, the ones whose update the gradient scaler skipped."""
    best: float | None = None
    """Best validation top-1 so far, as a share of 1."""
    best_epoch: int | None = None
    """Epochs completed when it was reached."""
    average_updates: int = 0
    """Updates of the moving average."""

    @property
    def updates(self) -> int:
        """Optimizer updates done: what the learning rate follows."""
        return self.step - self.skipped


class Checkpoints:
    """The checkpoint folders of a run, and the links `last` and `best` among them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def last(self) -> Path | None:
        """The newest complete checkpoint."""
        return self._resolve("last")

    def best(self) -> Path | None:
        """The checkpoint with the best validation accuracy."""
        return self._resolve("best")

    def _resolve(self, link: str) -> Path | None:
        path = self.folder / link
        return path.resolve() if (path / PROGRESS).exists() else None

    def save(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        average: WeightAverage | None,
        progress: Progress,
        is_best: bool,
    ) -> Path:
        """Write a checkpoint; called on every rank. A killed process leaves the earlier ones as they were."""
        target = self.folder / f"step_{progress.step:08d}"
        partial = self.folder / f".{target.name}.partial"
        if accelerator.is_main_process:
            for abandoned in self.folder.glob(".step_*.partial"):
                shutil.rmtree(abandoned)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            write_tensors(partial / NETWORK, network)
            if average:
                write_tensors(partial / AVERAGE, average.module)
            write_json(partial / PROGRESS, asdict(progress))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._publish(partial, target, is_best)
        accelerator.wait_for_everyone()
        return target

    def _publish(self, partial: Path, target: Path, is_best: bool) -> None:
        for file in partial.iterdir():
            flush(file)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        for link in ("last", "best") if is_best else ("last",):
            temporary = self.folder / f".{link}.partial"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.name)
            os.replace(temporary, self.folder / link)
        self._prune()

    def _prune(self) -> None:
        """Remove all but the newest `keep`, the last and the best."""
        protected = {self.last(), self.best()}
        complete = sorted(self.folder.glob("step_*"))
        for old in complete[: -self.keep]:
            if old.resolve() not in protected:
                shutil.rmtree(old)


def own_model_files(accelerator: Accelerator, network: nn.Module) -> None:
    """Make accelerate leave the weights to us, on saving and on loading.

    It would save them under the names that the distributed wrapper gives them, so that a checkpoint of
    two processes would not load in one.
    """

    def drop_weights(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        weights.clear()

    def load_ours(models: list[nn.Module], folder: str) -> None:
        models.clear()
        load_model(network, str(Path(folder) / NETWORK))

    accelerator.register_save_state_pre_hook(drop_weights)
    accelerator.register_load_state_pre_hook(load_ours)


def restore(path: Path, accelerator: Accelerator, average: WeightAverage | None) -> Progress:
    """Load everything a checkpoint holds and return the progress it was saved at; called on every rank."""
    progress = read_progress(path)
    if not (path / f"random_states_{accelerator.process_index}.pkl").exists():
        logger.warning(
            "%s has no random state for rank %d: it starts a new one", path, accelerator.process_index
        )
    accelerator.load_state(str(path))
    # accelerate goes on counting micro-batches where it was, which is amiss with another accumulation.
    accelerator.step = 0
    if average:
        average.updates = progress.average_updates
        _load_average(path, average)
    return progress


def load_weights(path: Path, network: nn.Module, average: WeightAverage | None) -> None:
    """Load only the weights of a checkpoint, and those of the moving average."""
    load_model(network, str(path / NETWORK))
    if average:
        _load_average(path, average)


def _load_average(path: Path, average: WeightAverage) -> None:
    if not (path / AVERAGE).exists():
        logger.warning("%s has no moving average: it starts afresh from the weights", path)
    load_model(average.module, str(path / (AVERAGE if (path / AVERAGE).exists() else NETWORK)))


def read_progress(path: Path) -> Progress:
    """The progress a checkpoint was saved at. Raises UserError where `path` is no checkpoint of ours."""
    try:
        return Progress(**json.loads((path / PROGRESS).read_text()))
    except FileNotFoundError:
        raise UserError(f"{path} is not a checkpoint: it has no {PROGRESS}") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{path / PROGRESS} is damaged: {error}") from None


def find_checkpoint(resume: str, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint that run.resume names: None for `never`, or where `auto` finds none yet."""
    if resume == "never":
        return None
    if resume == "auto":
        return checkpoints.last()
    path = Path(resume)
    read_progress(path)
    return path.resolve()
