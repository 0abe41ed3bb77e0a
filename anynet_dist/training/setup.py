"""The parts that a run is made of, each from its Config; the Trainer puts them together, in this order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler

import torch
from accelerate import Accelerator

from anynet_dist.config import Config, dump_config
from anynet_dist.data.batch_plan import BatchPlan, plan_batches
from anynet_dist.data.dataset import Dataset
from anynet_dist.data.loaders.base import Loader
from anynet_dist.models.activation_checkpointing import checkpoint_activations
from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.models.stochastic_depth import drop_branches
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.folder import RunFolder, check_folder, clear_folder
from anynet_dist.runs.network_file import NetworkDescription, write_description
from anynet_dist.runs.plugin_files import choose_plugins, keep_plugins, read_plugins
from anynet_dist.runs.progress import Progress, RunContext, data_digest
from anynet_dist.runs.resume import find_checkpoint
from anynet_dist.runs.trackers import check_trackers
from anynet_dist.system import distributed
from anynet_dist.system.choices import note_choice
from anynet_dist.system.environment import environment_report
from anynet_dist.system.files import write_json, write_text
from anynet_dist.system.logging import log_to_file
from anynet_dist.system.threads import wait_policy
from anynet_dist.training import build
from anynet_dist.training.compilation import Work, choose_compile, compile_first, compile_network
from anynet_dist.training.defaults import choose_defaults
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.ddp import Engine
from anynet_dist.training.distributed.rank_zero import rank_zero_decides
from anynet_dist.training.finetune import freeze, load_pretrained
from anynet_dist.training.memory_format import choose_memory_format, format_name
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import build_schedule
from anynet_dist.training.task import Task, TaskSetting
from anynet_dist.training.tasks import make_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPlan:
    """Batches, steps and learning rate of a run."""

    batches: BatchPlan
    images: int
    """Training images."""
    steps_per_epoch: int
    total_steps: int
    peak_lr: float
    schedule: Callable[[int], float]

    def work(self, engine: str) -> Work:
        """How much is trained, by which engine."""
        return Work(self.total_steps * self.batches.global_batch, self.batches.accumulation, engine)

    def learning_rate(self, updates: int) -> float:
        """The learning rate of the next update, after so many."""
        return self.peak_lr * self.schedule(updates)

    def micro_batch_number(self, step: int, micro_batch: int, rank: int) -> int:
        """The number of a rank's micro-batch of a step among those of all ranks and steps, from 0."""
        return (step * self.batches.accumulation + micro_batch) * self.batches.world_size + rank

    def loss_weight(self, count: int, step_in_epoch: int) -> float:
        """The weight of the mean loss over `count` images: 1 but for the last, smaller step of an epoch."""
        return self.batches.loss_weight(count, self.images - step_in_epoch * self.batches.global_batch)


def check_config(config: Config, folder: RunFolder) -> Config:
    """The config with the plug-ins that the run uses; checked as far as that needs neither data nor devices.

    Raises UserError for whatever the user can put right.
    """
    config = choose_plugins(config, folder)
    build.check_network(config)
    build.check_choices(config)
    check_trackers(config)
    check_folder(folder, config)
    return config


def choose_checkpoint(config: Config, checkpoints: Checkpoints, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to resume from: rank 0 verifies and chooses it, for all ranks.

    Raises UserError as `find_checkpoint` does.
    """

    def choose() -> Checkpoint | None:
        checkpoints.recover()
        return find_checkpoint(config.run.resume, checkpoints, folder)

    return rank_zero_decides(choose)


def plan_run(
    config: Config, split: Dataset, checkpoint: Checkpoint | None, world_size: int | None = None
) -> tuple[Config, RunPlan]:
    """The plan for the processes that there are, or for `world_size`, and the config with the defaults that
    depend on it. Raises UserError for one that cannot be.

    A resumed run keeps the batch of one device, which batch norm depends on.
    """
    limit = config.train.max_device_batch
    limit = limit or (checkpoint.context.device_batch if checkpoint else None)
    world_size = world_size or distributed.world_size()
    batches = plan_batches(config.train.global_batch, world_size, limit, config.data.drop_last)
    order = build.train_plan(config, split, batches)
    build.check_batch_norm(config, batches, order)
    steps_per_epoch = order.num_updates
    total_steps = config.train.epochs * steps_per_epoch
    total_steps = min(total_steps, config.train.max_steps or total_steps)
    options = checkpoint.options if checkpoint else {}
    config = choose_defaults(config, steps_per_epoch, total_steps, options)
    schedule = build_schedule(config.schedule, steps_per_epoch, total_steps)
    assert config.optim.lr is not None
    plan = RunPlan(batches, len(split), steps_per_epoch, total_steps, config.optim.lr, schedule)
    return config, plan


def start_accelerator(
    config: Config, engine: Engine, plan: RunPlan, checkpoint: Checkpoint | None
) -> tuple[str, Accelerator]:
    """Precision and accelerator; tells what was chosen. Raises UserError where the device cannot do it."""
    precision, why = devices.choose_precision(config)
    before = checkpoint.context if checkpoint else None
    if before:
        engine.check_checkpoint(before.engine, before.world_size)
        if config.train.precision == "auto" and before.precision != precision:
            again = replace(config, train=replace(config.train, precision=before.precision))
            precision, why = devices.choose_precision(again)[0], "as the run was started with"
    accelerator = engine.start(precision, plan.batches)
    note_choice("devices", devices.describe_devices(accelerator))
    if engine.name != "DDP":
        note_choice("engine", engine.name, "as the launcher asks")
    note_choice("precision", precision, why)
    if accelerator.device.type == "cpu" and not config.speed.copy_ahead:
        logger.info("speed.copy_ahead has no effect: on a CPU nothing is copied")
    if accelerator.device.type == "cpu" and wait_policy():
        note_choice("threads", wait_policy())
    return precision, accelerator


def build_network(config: Config, description: NetworkDescription) -> AnyNet:
    """The network as it trains: its first weights, or trained ones, its frozen parts without gradients."""
    network = build_anynet(**description.model)
    if config.model.pretrained:
        load_pretrained(network, config.model.pretrained)
    freeze(network, config.model.freeze)
    drop_branches(network, config.train.stochastic_depth)
    checkpoint_activations(network, config.train.activation_checkpointing)
    return network


def place_network(
    network: AnyNet, config: Config, accelerator: Accelerator, plan: RunPlan, checkpoint: Checkpoint | None
) -> torch.memory_format:
    """Move the network to its device, in the memory format that is returned; a resumed run keeps its own."""
    resolution = config.data.train_res or 0
    shape = (plan.batches.device_batch, 3, resolution, resolution)
    asked: str = config.train.memory_format
    kept = checkpoint.context.memory_format if asked == "auto" and checkpoint else None
    memory_format, why = choose_memory_format(kept or asked, network, accelerator, shape)
    why = "as the run was started with" if kept else why
    note_choice("memory format", format_name(memory_format), why)
    network.to(accelerator.device).to(memory_format=memory_format)
    return memory_format


def compile_for_training(
    network: AnyNet,
    config: Config,
    accelerator: Accelerator,
    plan: RunPlan,
    checkpoint: Checkpoint | None,
    engine: Engine,
) -> str:
    """Have the network compiled as the config says, by one rank of each machine first; returns the mode."""
    before = checkpoint.context if checkpoint else None
    mode, why = choose_compile(config, network.spec, plan.work(engine.name), before)
    if config.train.compile != "off":
        note_choice("compile", mode, why)
    side = train_resolution(config.data, checkpoint.progress.epoch if checkpoint else 0)
    compile_first(network, mode, accelerator, (plan.batches.device_batch, 3, side, side))
    compile_network(network, mode)
    return mode


def build_task(config: Config, split: Dataset, device: torch.device) -> Task:
    """What the run learns."""
    augment = config.data.augment
    setting = TaskSetting(
        num_classes=config.model.num_classes or 0,
        classes=split.classes,
        labels=split.labels,
        loss=build.build_criterion(config, split, device),
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        seed=config.run.seed,
    )
    return make_task(config.train.task, setting)


def build_loaders(
    config: Config,
    splits: build.Splits,
    plan: RunPlan,
    accelerator: Accelerator,
    memory_format: torch.memory_format,
    owned: ExitStack,
) -> dict[str, Loader]:
    """A loader for each split, of this rank's images; `owned` closes them."""
    loaders: dict[str, Loader] = {}
    for name, split in splits.items():
        if name != "train":
            loaders[name] = build.build_eval_loader(config, split, accelerator, memory_format)
            owned.callback(loaders[name].close)
    train = splits["train"]
    loaders["train"] = build.build_train_loader(config, train, plan.batches, accelerator, memory_format)
    owned.callback(loaders["train"].close)
    return loaders


def describe_run(
    splits: build.Splits,
    plan: RunPlan,
    engine: Engine,
    precision: str,
    memory_format: torch.memory_format,
    compiled: str,
) -> RunContext:
    """What a resumed run should find again."""
    return RunContext(
        world_size=plan.batches.world_size,
        device_batch=plan.batches.device_batch,
        precision=precision,  # type: ignore[arg-type]
        memory_format=format_name(memory_format),
        total_steps=plan.total_steps,
        compile=compiled,
        engine=engine.name,
        data={name: data_digest(split) for name, split in splits.items()},
    )


def prepare_folder(
    folder: RunFolder,
    config: Config,
    description: NetworkDescription,
    context: RunContext,
    device: torch.device,
    old: Checkpoints | None,
    early_log: MemoryHandler,
) -> Callable[[], None]:
    """Make the folder ready, on rank 0; returns what closes its log.

    An earlier run is removed only now that everything else has worked, with its checkpoints, `old`; None
    where the run is resumed.
    """
    plugins = read_plugins(config)
    if old is not None:
        clear_folder(folder)
        old.clear()
    folder.mark(saved=old is None)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    close_log = log_to_file(folder.console, early_log)
    write_text(folder.config, dump_config(config))
    keep_plugins(plugins, folder)
    write_description(folder.description, description)
    report = environment_report(context.world_size, str(device))
    choices = {
        "precision": context.precision,
        "memory_format": context.memory_format,
        "compile": context.compile,
    }
    write_json(folder.environment, {**report, **choices})
    return close_log


def log_schedule_change(config: Config, plan: RunPlan, before: RunContext, progress: Progress) -> None:
    """Log what a resumed run's new number of steps does to its learning rate."""
    if before.total_steps == plan.total_steps:
        return
    schedule = build_schedule(config.schedule, plan.steps_per_epoch, before.total_steps)
    logger.info(
        "the run is now to end at step %d instead of %d: the learning rate continues at %.4g, where it"
        " would have been %.4g",
        plan.total_steps,
        before.total_steps,
        plan.learning_rate(progress.updates),
        plan.peak_lr * schedule(progress.updates),
    )
