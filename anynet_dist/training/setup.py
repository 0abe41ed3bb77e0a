"""Everything a run trains with, made from its Config: devices, network, optimizer, loaders, schedule."""

from __future__ import annotations

import logging
from dataclasses import replace

from accelerate.utils import set_seed

from anynet_dist import __version__
from anynet_dist.config import Config
from anynet_dist.data.loaders.base import Loader
from anynet_dist.data.transforms.mix import Mixing
from anynet_dist.models.anynet import build_anynet
from anynet_dist.runs.checkpoints import Checkpoints, find_checkpoint
from anynet_dist.runs.config_diff import check_changes
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.progress import Circumstances, Progress, data_digest, read_circumstances
from anynet_dist.system import distributed
from anynet_dist.system.threads import wait_policy
from anynet_dist.training import build
from anynet_dist.training.checkpointing import own_model_files
from anynet_dist.training.defaults import choose_defaults
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.batch_plan import plan_batches
from anynet_dist.training.distributed.engine import choose_engine
from anynet_dist.training.finetune import freeze, load_pretrained
from anynet_dist.training.memory_format import choose_memory_format, format_name
from anynet_dist.training.optim.ema import WeightAverage
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.optim.schedules import build_schedule

logger = logging.getLogger(__name__)


class RunSetup:
    """What the training loop works with, for however many processes the launcher started.

    Raises UserError for whatever the user can put right, before the run folder is touched.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.folder = folder
        self.loaders: dict[str, Loader] = {}
        try:
            self._build(config)
        except BaseException:
            self.close()
            raise

    def _build(self, config: Config) -> None:
        self.splits = build.open_splits(config)
        self.config = build.resolve(config, self.splits["train"].info)
        self.description = build.describe_network(self.config, self.splits)
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.checkpoint)
        if distributed.is_main():
            self.checkpoints.recover()
        self.checkpoint = find_checkpoint(config.run.resume, self.checkpoints, self.folder)
        self.before = read_circumstances(self.checkpoint) if self.checkpoint else None
        self._plan_run()
        self._start_accelerator()
        self._build_network()
        self._build_loaders()
        self.circumstances = self._describe_circumstances()
        if self.checkpoint and self.before:
            check_changes(self.checkpoint, self.before, self.config, self.circumstances)

    def _plan_run(self) -> None:
        """Batches, steps and learning rate. What cannot be is refused here, before anything takes time."""
        config = self.config
        world = distributed.world_size()
        self.plan = plan_batches(config.train.global_batch, world, self._device_batch())
        order = build.train_plan(config, self.splits["train"], self.plan)
        build.check_batch_norm(config, self.plan, order)
        self.steps_per_epoch = order.num_updates
        self.total_steps = config.train.epochs * self.steps_per_epoch
        if config.train.max_steps:
            self.total_steps = min(self.total_steps, config.train.max_steps)
        self.config = choose_defaults(config, self.steps_per_epoch, self.total_steps, self.checkpoint)
        self.schedule = build_schedule(self.config.schedule, self.steps_per_epoch, self.total_steps)

    def _start_accelerator(self) -> None:
        config = self.config
        self.precision, why = devices.choose_precision(config)
        if config.train.precision == "auto" and self.before and self.before.precision != self.precision:
            again = replace(config, train=replace(config.train, precision=self.before.precision))
            self.precision, why = devices.choose_precision(again)[0], "as the run was started with"
        self.engine = choose_engine(config)
        if self.before:
            self.engine.check_checkpoint(self.before.engine, self.before.world_size)
        self.accelerator = self.engine.start(self.precision, self.plan)
        set_seed(config.run.seed)
        logger.info("anynet %s, %s", __version__, devices.describe_devices(self.accelerator))
        if self.engine.name != "DDP":
            logger.info("engine %s: as the launcher asks", self.engine.name)
        logger.info("precision %s: %s", self.precision, why)
        logger.info("batch: %s", self.plan)
        if self.accelerator.device.type == "cpu" and wait_policy():
            logger.info("threads: %s", wait_policy())

    def _device_batch(self) -> int | None:
        """The largest batch on one device. A resumed run keeps its own, which batch norm depends on."""
        limit = self.config.train.max_device_batch
        return limit or (self.before.device_batch if self.before else None)

    def _build_network(self) -> None:
        config, accelerator = self.config, self.accelerator
        self.network = build_anynet(**self.description.model)
        if config.model.pretrained:
            load_pretrained(self.network, config.model.pretrained)
        freeze(self.network, config.model.freeze)
        self._choose_memory_format()
        self.network.to(accelerator.device).to(memory_format=self.memory_format)
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        logger.info("network: %s parameters, run folder %s", f"{parameters:,}", self.folder.path)
        ema = config.ema
        self.average = WeightAverage(self.network, ema.decay, ema.every, ema.warmup) if ema.decay else None
        augment = config.data.augment
        self.mixing = Mixing(config.model.num_classes or 0, augment.mixup, augment.cutmix, config.run.seed)
        self.criterion = build.build_criterion(config, self.splits["train"], accelerator.device)
        # A scaler cannot see that the fused step was skipped, and the learning rate would run ahead.
        fused = accelerator.scaler is None and self.engine.fused_optimizer
        self.model, self.optimizer = self.engine.prepare(
            self.network, lambda trained: build_optimizer(trained, config.optim, fused)
        )
        self.frozen = [self.engine.trained.get_submodule(part) for part in config.model.freeze]
        own_model_files(accelerator, self.network)

    def _choose_memory_format(self) -> None:
        resolution = self.config.data.train_res or 0
        shape = (self.plan.device_batch, 3, resolution, resolution)
        asked: str = self.config.train.memory_format
        kept = self.before.memory_format if asked == "auto" and self.before else None
        self.memory_format, why = choose_memory_format(kept or asked, self.network, self.accelerator, shape)
        why = "as the run was started with" if kept else why
        logger.info("memory format %s: %s", format_name(self.memory_format), why)

    def _build_loaders(self) -> None:
        config = self.config
        for name, split in self.splits.items():
            if name != "train":
                self.loaders[name] = build.build_eval_loader(
                    config, split, self.accelerator, self.memory_format
                )
        self.loaders["train"] = build.build_train_loader(
            config, self.splits["train"], self.plan, self.accelerator, self.memory_format
        )
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        logger.info("data: %s images in %d classes", sizes, len(self.description.classes))

    def _describe_circumstances(self) -> Circumstances:
        return Circumstances(
            world_size=self.plan.world_size,
            device_batch=self.plan.device_batch,
            precision=self.precision,
            memory_format=format_name(self.memory_format),
            total_steps=self.total_steps,
            engine=self.engine.name,
            data={name: data_digest(split.info) for name, split in self.splits.items()},
        )

    def tell_new_length(self, progress: Progress) -> None:
        """Say what a resumed run's new number of steps does to its learning rate."""
        if self.before is None or self.before.total_steps == self.total_steps:
            return
        before = build_schedule(self.config.schedule, self.steps_per_epoch, self.before.total_steps)
        lr = self.peak_lr
        logger.info(
            "the run is now to end at step %d instead of %d: the learning rate goes on at %.4g, where it"
            " would have been %.4g",
            self.total_steps,
            self.before.total_steps,
            lr * self.schedule(progress.updates),
            lr * before(progress.updates),
        )

    @property
    def choices(self) -> dict[str, str]:
        """What was chosen for this machine."""
        return {"precision": self.precision, "memory_format": format_name(self.memory_format)}

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule is a factor of."""
        assert self.config.optim.lr is not None
        return self.config.optim.lr

    def close(self) -> None:
        """End the loaders' threads and processes."""
        for loader in self.loaders.values():
            loader.close()
