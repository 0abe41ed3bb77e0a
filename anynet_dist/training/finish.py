"""The end of a training: the best network is taken and written, and every end is explained."""

from __future__ import annotations

import logging
from typing import Any

from anynet_dist.config import Config
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import Record
from anynet_dist.runs.network_file import NetworkDescription, save_network
from anynet_dist.runs.progress import Progress
from anynet_dist.system.errors import RunError, StoppedEarly
from anynet_dist.training.checkpointing import RunState, load_weights
from anynet_dist.training.distributed.rank_zero import rank_zero_decides
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.resilience import faults
from anynet_dist.training.setup import RunPlan

logger = logging.getLogger(__name__)


class Stopped(StoppedEarly):
    """The run was asked to stop, which all ranks have agreed on; its state is saved and can be resumed."""

    def __init__(self, why: str, step: int, total_steps: int) -> None:
        self.why = why
        super().__init__(
            f"stopped at step {step} of {total_steps} ({why}): the same command with --run.resume auto"
            " resumes it"
        )


class Pruned(Exception):  # noqa: N818 - not an error
    """Raised by a hook on every rank: the run has shown enough. It ends as `pruned`, not to be resumed."""


def load_best(checkpoints: Checkpoints, state: RunState, label: str) -> Progress:
    """Load the weights of the best checkpoint by validation, where there is one; called on every rank.

    Returns the progress at which these weights were saved; `label` is what the score is called.
    """
    best = rank_zero_decides(checkpoints.best)
    if best is None:
        return state.progress
    load_weights(best.path, state.network, state.average)
    if best.progress.score is not None:
        score, epoch = 100 * best.progress.score, best.progress.current_epoch
        logger.info("best validation %s %.2f%%, after epoch %d", label, score, epoch)
    return best.progress


def write_network(
    folder: RunFolder, state: RunState, description: NetworkDescription, epoch: int, result: Record
) -> None:
    """Write model.safetensors, the moving average where there is one, with the scores; on rank 0."""
    network = state.average.module if state.average else state.network
    facts: dict[str, Any] = {**result, "epoch": epoch, "weights": "ema" if state.average else "raw"}
    if state.accelerator.is_main_process:
        folder.check_owner()
        save_network(folder.weights, network, description, **facts)
        logger.info("trained network (%s weights): %s", facts["weights"], folder.weights)
    state.accelerator.wait_for_everyone()


def explain(
    error: BaseException, peers: list[faults.Peer], config: Config, plan: RunPlan, state: RunState
) -> RunError | None:
    """Explains an error whose cause is a lost rank or memory that ran out; None for any other."""
    device, precision = state.accelerator.device, state.context.precision
    resolution = train_resolution(config.data, state.progress.epoch)
    lost = faults.lost_rank(error, peers)
    return lost or faults.out_of_memory(error, plan.batches, resolution, precision, device)
