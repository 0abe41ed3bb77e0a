"""The learning-rate range test (Smith, 2017, section 3.3): training while the learning rate rises."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray

from anynet_dist.config import Config
from anynet_dist.data.loaders.base import Loader
from anynet_dist.report.pictures import new_figure, save
from anynet_dist.runs.folder import folder_of
from anynet_dist.runs.plugin_files import choose_plugins
from anynet_dist.system.choices import collected_choices
from anynet_dist.system.errors import UserError
from anynet_dist.training import build, setup
from anynet_dist.training.banner import show_banner
from anynet_dist.training.distributed.engine import choose_engine
from anynet_dist.training.evaluation import Batch
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.optim.schedules import set_learning_rate

logger = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Fraction of the moving average of the loss that is kept at each step."""
DIVERGED = 4.0
"""The sweep ends where the smoothed loss is so many times the lowest, as in fastai and Lightning."""
ABOVE_START = 1.25
"""Or so many times that of the start: a loss that starts at guessing may never reach the other bound."""
LEFT_OUT = 0.1
"""Fraction of the steps at the start whose average is of too few losses to be judged."""


@dataclass(frozen=True)
class LrSweep:
    """Losses of a sweep, one per step."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    diverged: bool
    """Whether it ended before the highest rate."""

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The moving average of the losses, corrected for its start."""
        averages, average = [], 0.0
        for number, loss in enumerate(self.losses, start=1):
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            averages.append(average / (1 - SMOOTHING**number))
        return np.array(averages)

    @property
    def lowest(self) -> float:
        """The learning rate at which the smoothed loss is lowest."""
        return float(self.rates[int(np.argmin(self.smoothed))])

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate; None if it never
        falls."""
        smoothed = self.smoothed
        first, last = math.ceil(LEFT_OUT * len(smoothed)), int(np.argmin(smoothed))
        if last - first < 2:
            return None
        slopes = np.gradient(smoothed[first : last + 1])  # rates are evenly spaced in their logarithm
        return float(self.rates[first + int(np.argmin(slopes))])


def sweep_learning_rate(config: Config, lowest: float, highest: float, steps: int) -> LrSweep:
    """Train the config's network from its start for `steps` steps, from the `lowest` rate to the `highest`.

    Network, optimizer, loader, loss, precision and global batch are the run's; its schedule is not used, and
    nothing is saved. Raises UserError as a run does, and where the range is none.
    """
    if not 0 < lowest < highest:
        raise UserError(f"--min must be above 0 and below --max (got {lowest:g} and {highest:g})")
    if steps < 10:
        raise UserError(f"--steps must be at least 10, not {steps}")
    with collected_choices(logger) as choices:
        finder = _Finder(config)
    unused = ("learning rate", "schedule")
    show_banner("learning-rate range test", [each for each in choices if each.subject not in unused])
    rates = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    try:
        for rate in rates:
            losses.append(finder.step(float(rate)))
            sweep = LrSweep(rates[: len(losses)], np.array(losses), False)
            if not math.isfinite(losses[-1]) or _diverged(sweep, steps):
                return _finite(sweep)
    finally:
        finder.close()
    return LrSweep(rates, np.array(losses), False)


def _diverged(sweep: LrSweep, steps: int) -> bool:
    smoothed, first = sweep.smoothed, math.ceil(LEFT_OUT * steps)
    if len(smoothed) <= first:
        return False
    bound = min(DIVERGED * smoothed.min(), ABOVE_START * smoothed[first - 1])
    return bool(smoothed[-1] > bound)


def _finite(sweep: LrSweep) -> LrSweep:
    finite = np.isfinite(sweep.losses)
    if not finite.any():
        raise UserError("the loss is not finite from the first step on: lower --min, or check the data")
    return LrSweep(sweep.rates[finite], sweep.losses[finite], True)


class _Finder:
    """The parts of a run that a training step needs."""

    def __init__(self, config: Config) -> None:
        config = choose_plugins(config, folder_of(config))
        build.check_network(config)
        build.check_choices(config)
        splits = build.open_splits(config)
        config = build.resolve(config, splits["train"])
        self.engine = choose_engine(config)
        self.engine.connect()
        self.config, self.plan = setup.plan_run(config, splits["train"], None)
        _, self.accelerator = setup.start_accelerator(self.config, self.engine, self.plan, None)
        set_seed(config.run.seed)
        network = setup.build_network(self.config, build.describe_network(self.config, splits))
        memory_format = setup.place_network(network, self.config, self.accelerator, self.plan, None)
        self.task = setup.build_task(self.config, splits["train"], self.accelerator.device)
        fused = self.engine.can_fuse(self.config.speed)
        self.model, self.optimizer = self.engine.prepare(
            network, lambda trained: build_optimizer(trained, self.config.optim, fused)
        )
        self.loader = build.build_train_loader(
            self.config, splits["train"], self.plan.batches, self.accelerator, memory_format
        )
        self.batches, self.steps = _endless(self.loader), 0
        self.model.train()
        for part in self.config.model.freeze:
            self.engine.trained.get_submodule(part).eval()

    def step(self, rate: float) -> float:
        """One optimizer step at a learning rate; returns the mean loss over its images, before the update."""
        accelerator, accumulation = self.accelerator, self.plan.batches.accumulation
        set_learning_rate(self.optimizer, rate)
        total = torch.zeros((), device=accelerator.device)
        for number in range(accumulation):
            inputs, targets = self.task.batch(*next(self.batches))
            place = self.plan.micro_batch_number(self.steps, number, accelerator.process_index)
            mixed, mixed_targets = self.task.mix(inputs, targets, place)
            with accelerator.accumulate(self.model):
                loss = self.task.loss(self.model(mixed).float(), mixed_targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients and self.config.train.clip_grad_norm:
                    self.engine.clip_gradients(self.config.train.clip_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / accumulation
        self.steps += 1
        # The host waits here at each step, because the sweep ends where the loss diverges.
        return float(accelerator.reduce(total, reduction="mean"))

    def close(self) -> None:
        """End the loader's threads and processes."""
        self.loader.close()


def _endless(loader: Loader) -> Iterator[Batch]:
    """Whole epochs, one after the other."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def plot_sweep(sweep: LrSweep, title: str, out: Path) -> None:
    """Write the losses over the learning rate, with the suggestion, as a PNG."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    axes.plot(sweep.rates, sweep.losses, color="0.75", linewidth=1, label="loss of each step")
    axes.plot(sweep.rates, sweep.smoothed, color="C0", label=f"moving average ({SMOOTHING:g})")
    if sweep.suggestion is not None:
        label = f"steepest descent: {sweep.suggestion:.2g}"
        axes.axvline(sweep.suggestion, color="C3", linestyle="--", label=label)
    smoothed = sweep.smoothed
    start = float(smoothed[: max(1, len(smoothed) // 10)].mean())
    low = float(min(smoothed.min(), np.percentile(sweep.losses, 5)))
    axes.set_ylim(low - 0.1 * (start - low), start + max(0.5 * start, start - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, out)
