"""What goes into a checkpoint and comes out of it: weights, optimizer, random states, progress.

`take_snapshot` and `restore` mirror each other over one object, the RunState; the Saver writes snapshots.
"""

from __future__ import annotations

import logging
import pickle
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import load
from accelerate.utils.constants import OPTIMIZER_NAME, RNG_STATE_NAME, SCALER_NAME
from torch import Tensor, nn

from anynet_dist.config import Config, dump_config
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.file_names import AVERAGE, MODEL
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.network_file import load_tensors, write_state_dict
from anynet_dist.runs.progress import CONFIG, CONTEXT, PROGRESS, Progress, RunContext
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import to_json, write_text
from anynet_dist.training.optim.batch_norm import averaged_statistics, own_statistics, restore_statistics
from anynet_dist.training.optim.ema import WeightAverage
from anynet_dist.training.task import RunningScores

logger = logging.getLogger(__name__)


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


@dataclass(kw_only=True)
class Snapshot:
    """All that this rank writes of a checkpoint, as of one step."""

    tensors: dict[str, dict[str, Tensor]]
    """Safetensors files by name: on rank 0."""
    pickled: dict[str, Any]
    """Files that torch writes by name, such as the optimizer state, on rank 0, and the random states."""
    texts: dict[str, Callable[[], str]]
    """Other files, from what no longer changes: on rank 0."""

    def write(self, folder: Path) -> None:
        """Write the files; raises OSError, or torch's RuntimeError."""
        for name, tensors in self.tensors.items():
            write_state_dict(folder / name, tensors)
        for name, content in self.pickled.items():
            torch.save(content, folder / name)
        for name, text in self.texts.items():
            write_text(folder / name, text())


def take_snapshot(state: RunState, log: RunLog) -> Snapshot:
    """What the ranks are to save now; called on every rank.

    Its tensors are those that train, but for the batch-norm statistics: these are averaged over the ranks.
    With an engine other than DDP, accelerate's `save_state` writes the optimizer and the random states.
    """
    accelerator, networks = state.accelerator, state.networks
    progress = replace(
        state.progress,
        sums=state.scores.total(accelerator),
        average_updates=state.average.updates if state.average else 0,
        records=log.records,
        log_sha256=log.sha256,
    )
    averaged = [averaged_statistics(network) for network in networks.values()]
    pickled: dict[str, Any] = _accelerator_files(accelerator) if state.context.engine == "DDP" else {}
    if own := own_statistics(list(networks.values())):
        pickled[_statistics(accelerator.process_index)] = own
    if not accelerator.is_main_process:
        return Snapshot(tensors={}, pickled=pickled, texts={})
    named = zip((MODEL, AVERAGE), networks.values(), averaged, strict=False)
    return Snapshot(
        tensors={name: network.state_dict() | statistics for name, network, statistics in named},
        pickled=pickled,
        texts={
            CONFIG: partial(dump_config, state.config),
            CONTEXT: lambda: to_json(asdict(state.context)),
            PROGRESS: lambda: to_json(asdict(progress)),
        },
    )


def _accelerator_files(accelerator: Accelerator) -> dict[str, Any]:
    """What accelerate's `save_state` would write, under the names that its `load_state` reads."""
    files: dict[str, Any] = {f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl": _random_states(accelerator)}
    if accelerator.is_main_process:
        files[f"{OPTIMIZER_NAME}.bin"] = accelerator._optimizers[0].state_dict()
        if accelerator.scaler is not None:
            files[SCALER_NAME] = accelerator.scaler.state_dict()
    return files


def _random_states(accelerator: Accelerator) -> dict[str, Any]:
    states = {
        "step": 0,  # accelerate's count of micro-batches, which begins anew in a resumed run
        "random_state": random.getstate(),
        "numpy_random_seed": np.random.get_state(),
        "torch_manual_seed": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["torch_cuda_manual_seed"] = torch.cuda.get_rng_state_all()
    return states


def restore(checkpoint: Checkpoint, state: RunState) -> None:
    """Load everything that a snapshot holds into the parts of `state`; called on every rank."""
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
