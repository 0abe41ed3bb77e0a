"""A run cut to two steps, or batches, of everything, to see that all its parts work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from anynet_dist.config import Config
from anynet_dist.runs.folder import folder_of
from anynet_dist.system import distributed
from anynet_dist.training import build
from anynet_dist.training.hooks import Hook
from anynet_dist.training.trainer import Trainer

STEPS = 2
MARK = ".anynet_dev_run"
"""Tells the folder of such a run from one of that name that holds a real run, which is not overwritten."""


class DevTrainer(Trainer):
    """Trains as the config says, on its schedule, but for two steps; validates and tests on two batches.

    Its run folder is the run's with `-dev` at the end, and takes the place of an earlier such one. Trackers
    are off, and nothing is resumed. Raises what a Trainer raises.
    """

    def __init__(self, config: Config, hooks: Iterable[Hook] = ()) -> None:
        super().__init__(dev_config(config), hooks)
        if self.accelerator.is_main_process:
            (self.folder.path / MARK).touch()

    def open_splits(self) -> build.Splits:
        """As in Run; no more of the images to evaluate than two batches of each process."""
        most = STEPS * self.config.eval.batch_size * distributed.world_size()
        splits = super().open_splits()
        return {
            name: split if name == "train" else split.subset(range(min(most, len(split))))
            for name, split in splits.items()
        }

    @property
    def all_steps_done(self) -> bool:
        """Whether two steps are done, or all of a run that has fewer."""
        return self.progress.step >= STEPS or super().all_steps_done

    @property
    def parts(self) -> list[str]:
        """What was done."""
        done = [f"{self.progress.step} training steps", "checkpoint"]
        done += [
            words for split, words in (("val", "validation"), ("test", "test")) if self.evaluator.has(split)
        ]
        return [*done, self.folder.weights.name]


def dev_config(config: Config) -> Config:
    """The config of the short run."""
    folder = folder_of(config).path
    run = replace(config.run, dir=f"{folder}-dev", name=f"{config.run.name or 'run'}-dev")
    few = STEPS * config.train.global_batch
    return replace(
        config,
        run=replace(run, resume="never", overwrite=Path(run.dir or "", MARK).exists()),
        train=replace(config.train, log_every=1, profile=None),
        eval=replace(config.eval, precise_bn=min(config.eval.precise_bn, few)),
        tracking=replace(config.tracking, wandb="off", tensorboard=False),
    )
