"""What goes into a checkpoint and comes out of it: weights, optimizer, random states, progress.

`save` and `restore` mirror each other over one object, the RunState.
"""

from __future__ import annotations

import logging
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import load
from safetensors import SafetensorError
from torch import Tensor, nn

from anynet_dist.config import Config, dump_config
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.file_names import AVERAGE, MODEL
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.network_file import load_tensors, write_state_dict
from anynet_dist.runs.progress import CONFIG, CONTEXT, PROGRESS, Progress, RunContext
from anynet_dist.system.errors import RunError, UserError
from anynet_dist.system.files import write_json, write_text
from anynet_dist.training.optim.batch_norm import averaged_statistics, own_statistics, restore_statistics
from anynet_dist.training.optim.ema import WeightAverage
from anynet_dist.training.task import RunningScores

logger = logging.getLogger(__name__)


class CheckpointError(RunError):
    """A checkpoint could not be written; those before it are as they were."""


@dataclass(kw_only=True)
class RunState:
    """All that a checkpoint holds the state of; `accelerator` has the optimizer and the gradient scaler."""

    accelerator: Accelerator
    network: nn.Module
    average: WeightAverage | None
    scores: RunningScores
    """Of the training since the last record."""
    progress: Progress
    context: RunContext
    config: Config

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network and its moving average, by the prefix of their scores' names."""
        return {"": self.network} | ({"ema_": self.average.module} if self.average else {})


def save(state: RunState, checkpoints: Checkpoints, log: RunLog) -> Path:
    """Write a checkpoint; called on every rank. A killed process leaves the earlier ones as they were.

    The log is on the disk before the checkpoint that counts its records. Raises CheckpointError on all ranks
    when one of them could not write its part.
    """
    step, accelerator = state.progress.step, state.accelerator
    partial = checkpoints.partial(step)
    on_main = accelerator.is_main_process
    snapshot = replace(
        state.progress,
        sums=state.scores.total(accelerator),
        average_updates=state.average.updates if state.average else 0,
        records=log.records,
        log_sha256=log.sha256,
    )
    try:
        _together(accelerator, lambda: _begin(checkpoints, step, log) if on_main else None)
        averaged = [averaged_statistics(network) for network in state.networks.values()]
        _together(accelerator, lambda: _write(replace(state, progress=snapshot), partial, averaged))
        _together(accelerator, lambda: checkpoints.publish(partial) if on_main else None)
    except CheckpointError as error:
        if on_main:
            checkpoints.abandon()
        free = f"{shutil.disk_usage(checkpoints.folder).free / 2**20:,.0f} MiB are free on its disk"
        raise CheckpointError(f"cannot write the checkpoint of step {step} ({free}): {error}") from error
    return checkpoints.folder / f"step_{step:08d}"


def _begin(checkpoints: Checkpoints, step: int, log: RunLog) -> None:
    log.flush()
    checkpoints.begin(step)


def _together(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Do one's part and wait for the others; raises CheckpointError on all ranks where one has failed."""
    failure: str | None = None
    try:
        action()
    except (OSError, RuntimeError, SafetensorError) as error:
        failure = f"rank {accelerator.process_index}: {error}"
    failed = torch.tensor(float(failure is not None), device=accelerator.device)
    if accelerator.reduce(failed, reduction="sum").item():
        raise CheckpointError(failure or "another rank could not write its part")


def _write(state: RunState, partial: Path, averaged: list[dict[str, Tensor]]) -> None:
    """This rank's optimizer state, random states and batch-norm statistics; on rank 0 all else.

    The weight files hold the batch-norm statistics that are averaged over the ranks.
    """
    accelerator = state.accelerator
    accelerator.save_state(str(partial))
    if own := own_statistics(list(state.networks.values())):
        torch.save(own, partial / _statistics(accelerator.process_index))
    if not accelerator.is_main_process:
        return
    for name, network, statistics in zip((MODEL, AVERAGE), state.networks.values(), averaged, strict=False):
        write_state_dict(partial / name, network.state_dict() | statistics)
    write_text(partial / CONFIG, dump_config(state.config))
    write_json(partial / CONTEXT, asdict(state.context))
    write_json(partial / PROGRESS, asdict(state.progress))


def restore(checkpoint: Checkpoint, state: RunState) -> None:
    """Load everything that `save` has written into the parts of `state`; called on every rank."""
    path, accelerator = checkpoint.path, state.accelerator
    _restore_random_states(path, accelerator.process_index, checkpoint.context.world_size)
    try:
        accelerator.load_state(str(path))
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        why = shorten(str(error), width=300, placeholder=" ...")
        raise UserError(f"{path} does not fit this network: {why}") from None
    # accelerate continues to count micro-batches where it was, which is wrong with another accumulation.
    accelerator.step = 0
    if state.average:
        state.average.updates = checkpoint.progress.average_updates
        _load_average(path, state.average)
    statistics = path / _statistics(accelerator.process_index)
    if statistics.exists() and checkpoint.context.world_size == accelerator.num_processes:
        saved = torch.load(statistics, map_location="cpu", weights_only=True)
        restore_statistics(list(state.networks.values()), saved)
    state.progress = replace(checkpoint.progress)
    state.scores.restore(state.progress.sums, accelerator)


def _statistics(rank: int) -> str:
    return f"batch_norm_{rank}.pt"


def own_model_files(accelerator: Accelerator, network: nn.Module) -> None:
    """Make accelerate leave the weights to us, on saving and on loading.

    It would save them under the names that the distributed wrapper gives them, so that a checkpoint of
    two processes would not load in one.
    """

    def drop_weights(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        weights.clear()

    def load_ours(models: list[nn.Module], folder: str) -> None:
        models.clear()
        network.load_state_dict(load_tensors(Path(folder) / MODEL))

    accelerator.register_save_state_pre_hook(drop_weights)
    accelerator.register_load_state_pre_hook(load_ours)


def _restore_random_states(path: Path, rank: int, world_size: int) -> None:
    """Set this rank's random states; accelerate, which does it too, passes over those that it cannot read.

    Raises UserError where a rank that had one finds none that can be read: it would not resume exactly.
    """
    file = path / f"random_states_{rank}.pkl"
    if rank >= world_size:
        logger.warning("%s has no random state for rank %d: it starts a new one", path, rank)
        return
    try:
        states = load(file)
        random.setstate(states["random_state"])
        np.random.set_state(states["numpy_random_seed"])
        torch.set_rng_state(states["torch_manual_seed"])
    except Exception as error:  # torch, pickle and numpy have many of their own
        why = shorten(str(error) or type(error).__name__, width=300, placeholder=" ...")
        raise UserError(
            f"{file} cannot be read ({why}), and without this random state the run would not resume exactly:"
            " resume from another checkpoint, or start a new run from its weights with --model.pretrained"
        ) from None


def load_weights(path: Path, network: nn.Module, average: WeightAverage | None) -> None:
    """Load only the weights of a checkpoint, and those of the moving average."""
    network.load_state_dict(load_tensors(path / MODEL))
    if average:
        _load_average(path, average)


def _load_average(path: Path, average: WeightAverage) -> None:
    if not (path / AVERAGE).exists():
        logger.warning("%s has no moving average: it starts anew from the weights", path)
    average.module.load_state_dict(load_tensors(path / (AVERAGE if (path / AVERAGE).exists() else MODEL)))
