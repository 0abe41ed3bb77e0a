"""How far a run has come, and what it runs with: what a checkpoint holds beside tensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from anynet_dist.data.dataset import Dataset
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision

PROGRESS, CONTEXT, CONFIG = "progress.json", "context.json", "run_config.yaml"

# What version 0.1 called the file and a field.
OLD_CONTEXT = "circumstances.json"
OLD_FIELDS = {"ended": "evaluated"}

Facts = TypeVar("Facts")


@dataclass(kw_only=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs completed."""
    step_in_epoch: int = 0
    """Global batches of the current epoch already used."""
    step: int = 0
    """Global batches used in all: the x-axis of every curve."""
    skipped: int = 0
    """Of those, the ones whose update the gradient scaler skipped."""
    bad_steps: int = 0
    """Of those, the ones whose loss or gradients were not finite, as of the last rank synchronisation."""
    evaluated: bool = True
    """Whether the network was evaluated after the last of them, where the end of an epoch asks for it."""
    score: float | None = None
    """Validation score of this network (top-1, as a fraction), if it was evaluated."""
    best: float | None = None
    """Best validation score so far."""
    best_epoch: int | None = None
    """Epochs completed when it was reached."""
    evaluations_since_best: int = 0
    """Evaluations since then."""
    average_updates: int = 0
    """Updates of the moving average."""
    sums: list[float] = field(default_factory=list)
    """RunningScores since the last training record, over all ranks."""
    records: int = 0
    """Lines in the log so far."""
    log_sha256: str = ""
    """Of those lines; empty in a checkpoint of a version that did not note it."""

    @property
    def updates(self) -> int:
        """Optimizer updates done: what the learning rate follows."""
        return self.step - self.skipped

    @property
    def current_epoch(self) -> int:
        """The epoch that the last step belongs to, from 1; 0 before the first."""
        return self.epoch + bool(self.step_in_epoch)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run chose or found when it started, and what a resumed one should find again."""

    world_size: int
    device_batch: int
    precision: Precision
    memory_format: str
    total_steps: int
    engine: str = "DDP"
    """Whose optimizer state the checkpoint holds."""
    compile: str | None = None
    """What torch.compile compiles of the network; None in a checkpoint of a version that did not note it."""
    data: dict[str, str] = field(default_factory=dict)
    """Split -> digest of its classes and labels."""


def data_digest(data: Dataset) -> str:
    """A short digest of a data set's classes and stored labels, in order: equal for copies of a data set."""
    digest = hashlib.sha256("\n".join(data.classes).encode())
    digest.update(data.samples.labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def read_progress(path: Path) -> Progress:
    """The progress a checkpoint was saved at. Raises UserError where `path` is no checkpoint of ours."""
    return _read(path / PROGRESS, Progress)


def read_context(path: Path) -> RunContext:
    """The context of the run that a checkpoint belongs to. Raises UserError where it cannot be read."""
    name = OLD_CONTEXT if (path / OLD_CONTEXT).exists() else CONTEXT
    return _read(path / name, RunContext)


def _read(file: Path, kind: type[Facts]) -> Facts:
    try:
        facts = {OLD_FIELDS.get(name, name): value for name, value in _object(file).items()}
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        newer = sorted(facts.keys() - known)
        if newer:
            raise UserError(f"{file} was written by a newer version of anynet_dist: it has '{newer[0]}'")
        return TypeAdapter(kind).validate_python(facts)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file.parent} is not a checkpoint: it has no {file.name}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{file} is damaged: {where}: {problem['msg']}") from None
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is damaged: {error}") from None


def _object(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_bytes()).items())
