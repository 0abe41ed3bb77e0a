"""Exact evaluation: sums over samples, reduced once over all ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anynet_dist.config.schema import Config
from anynet_dist.data.loaders.base import Loader
from anynet_dist.runs.metrics_log import Record, RunLog
from anynet_dist.training.compilation import evaluating
from anynet_dist.training.inspection import Inspection
from anynet_dist.training.optim.batch_norm import average_batch_norm, recompute_batch_norm
from anynet_dist.training.task import Scores, Task

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, task: Task) -> Scores:
    """Scores of `network` over the batches of all ranks, each sample counted once.

    Samples whose outputs are not finite are counted as wrong, with a warning. `network` is the bare module,
    not the distributed one, so ranks may have different numbers of batches.
    """
    running = task.running_scores(accelerator.device, evaluation=True)
    for _, outputs, targets in _answers(network, batches, accelerator, task):
        running.update(outputs, targets, task.evaluation_loss(outputs, targets))
    scores = running.reduce(accelerator)
    not_finite = getattr(scores, "not_finite", 0)
    if not_finite and accelerator.is_main_process:
        logger.warning(
            "the logits of %d of %d images are not finite: they count as wrong, and the loss is not a number",
            not_finite,
            scores.count,
        )
    return scores


@torch.inference_mode()
def _answers(
    network: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, task: Task
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, outputs and targets, batch by batch, of the network in evaluation mode."""
    was_training = network.training
    network.eval()
    for images, labels in batches:
        inputs, targets = task.batch(images, labels)
        with accelerator.autocast():
            outputs = network(inputs)
        yield inputs, outputs.float(), targets
    network.train(was_training)


class Evaluator:
    """Evaluates the networks of a run, the raw one and its moving average, on the splits that it has."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        networks: Mapping[str, nn.Module],
        loaders: Mapping[str, Loader],
        task: Task,
        log: RunLog,
        beat: Callable[[], None],
    ) -> None:
        """`networks` by the prefix of their scores' names; `beat` is called after each batch."""
        self.config, self.accelerator, self.task = config, accelerator, task
        self.networks, self.loaders, self.log, self.beat = networks, loaders, log, beat

    def has(self, split: str) -> bool:
        """Whether the run has such images."""
        return split in self.loaders

    def evaluate(self, split: str, step: int, epoch: int, final: bool) -> Record:
        """Scores of all networks as of `epoch` on a split, written to the log; called on every rank.

        What is suspicious about those of a `final` network is logged.
        """
        record: Record = {"step": step, "epoch": epoch}
        networks = dict(self.networks)
        if self.config.eval.flip:
            networks |= {f"{key}flip_": self.task.flipped(network) for key, network in self.networks.items()}
        for prefix, network in networks.items():
            with evaluating(network, self.config.eval.compile):
                scores = evaluate(network, self._watched(self.loaders[split]), self.accelerator, self.task)
            record |= scores.record(f"{split}/{prefix}")
            warning = self.task.warning(scores) if final else None
            if warning:
                logger.warning("%s: %s", split, warning)
        self.log.write(record)
        return record

    @torch.inference_mode()
    def inspect(self, split: str) -> Inspection | None:
        """A closer look at the network that the run ends with, on a split; None where the task has none.

        Called on every rank.
        """
        loader, network = self.loaders[split], list(self.networks.values())[-1]
        inspection = self.task.inspection(self.accelerator.device, self.config.data.eval_res or 0)
        if inspection is None:
            return None
        order = torch.from_numpy(loader.order())
        answers = _answers(network, self._watched(loader), self.accelerator, self.task)
        with evaluating(network, self.config.eval.compile):
            for inputs, outputs, targets in answers:
                inspection.update(inputs, outputs, targets)
        inspection.name_samples(order)
        inspection.gather(self.accelerator)
        return inspection

    def settle_batch_norm(self) -> None:
        """Give all ranks the same batch-norm statistics before they evaluate and save."""
        samples, loader = self.config.eval.precise_bn, self.loaders["train"]
        for network in self.networks.values():
            if samples:
                loader.set_epoch(0)
                with self.accelerator.autocast(), evaluating(network, compiled=False):
                    frozen = [network.get_submodule(part) for part in self.config.model.freeze]
                    recompute_batch_norm(network, self._inputs(loader), samples, frozen)
            else:
                average_batch_norm(network)

    def _inputs(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in self._watched(batches):
            yield self.task.batch(images, labels)

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches outside of the training loop, which show that the run moves."""
        for batch in batches:
            yield batch
            self.beat()
