"""Our trainer as a training to be measured, and a bare loop over the same network and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from anynet_dist.bench.limits import DTYPES
from anynet_dist.bench.paced import Pace
from anynet_dist.config.schema import Config
from anynet_dist.training.compilation import compile_network
from anynet_dist.training.evaluation import Batch
from anynet_dist.training.memory_format import FORMATS
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.setup import build_network
from anynet_dist.training.trainer import Trainer

FOR_EVER = 1_000_000
"""Epochs: the measurement ends the run."""


def to_be_measured(config: Config, folder: Path) -> Config:
    """The config of a run in `folder` that does nothing but train, for as long as it is let."""
    return replace(
        config,
        run=replace(config.run, dir=str(folder), resume="never", overwrite=True, max_time=None),
        train=replace(config.train, epochs=FOR_EVER, max_steps=None, early_stopping=None, profile=None),
        eval=replace(config.eval, every=FOR_EVER),
        checkpoint=replace(config.checkpoint, every=f"{FOR_EVER} epochs"),
        tracking=replace(config.tracking, trackers=[], wandb="off", tensorboard=False, report=False),
    )


def train_ours(config: Config, synthetic: bool, pace: Pace) -> None:
    """Train as `anynet train` does; `synthetic`: on one batch again and again in place of the loader's."""
    images = config.train.global_batch
    trainer = Trainer(config, hooks=[lambda _: pace.after_step(images)])
    _keep_threads(pace)
    if synthetic:
        trainer.loaders["train"] = _SameBatch(trainer.loaders["train"])
    trainer.fit()


def train_bare(config: Config, synthetic: bool, pace: Pace) -> None:
    """A loop of a few lines over the batches of the same loader, with the choices that the trainer makes."""
    with Trainer(config) as trainer:
        _keep_threads(pace)
        context, config = trainer.state.context, trainer.config
        device, dtype = trainer.accelerator.device, DTYPES[context.precision]
        network = build_network(config, trainer.description).train()
        network.to(device).to(memory_format=FORMATS[context.memory_format])
        compile_network(network, context.compile or "off")
        fused = trainer.engine.can_fuse(config.speed)
        optimizer = build_optimizer(network, config.optim, fused)
        loader: Any = trainer.loaders["train"]
        for images, labels in _batches(_SameBatch(loader) if synthetic else loader):
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                outputs = network(images)
            F.cross_entropy(outputs.float(), labels, label_smoothing=config.train.label_smoothing).backward()
            optimizer.step()
            optimizer.zero_grad()
            pace.after_step(len(labels))


def _batches(loader: Any) -> Iterator[Batch]:
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def _keep_threads(pace: Pace) -> None:
    """A loader may have set the number of threads."""
    if pace.threads is not None:
        torch.set_num_threads(pace.threads)


class _SameBatch:
    """A loader whose first batch comes again and again."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        images, labels = next(iter(loader))
        self._batch = images.clone(), labels.clone()  # the loader may use its memory again

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return repeat(self._batch)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """All epochs are alike."""

    def set_resolution(self, resolution: int) -> None:
        """The batch stays as it is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
