"""A run checked and planned as far as that goes without training and without writing anything."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from anynet_dist import __version__
from anynet_dist.config import Config
from anynet_dist.data.dataset import Dataset
from anynet_dist.models.complexity import part_complexities
from anynet_dist.models.memory import UnknownMemoryError, known_optimizer, training_memory
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.tables import memory_table, parts_table, table_text
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.config_diff import check_changes
from anynet_dist.runs.folder import RunFolder, folder_of
from anynet_dist.runs.resume import find_checkpoint
from anynet_dist.system import distributed
from anynet_dist.system.choices import Choice, collected_choices, note_choice
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision
from anynet_dist.training import build, setup
from anynet_dist.training.banner import banner_lines, banner_rows, data_row, network_row
from anynet_dist.training.compilation import wanted_compile
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.ddp import ShardedEngine, reject_ddp_only_options
from anynet_dist.training.distributed.engine import choose_engine
from anynet_dist.training.lr_plot import lr_plot
from anynet_dist.training.memory_format import CACHE_FILE, FORMATS
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.saver import note_saving

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would do. `config` is resolved."""

    config: Config
    folder: RunFolder
    splits: dict[str, Dataset]
    plan: setup.RunPlan
    spec: NetworkSpec
    precision: Precision
    choices: list[Choice]

    def facts(self) -> dict[str, Any]:
        """The numbers, for programs."""
        batches = self.plan.batches
        return {
            "run": str(self.folder.path),
            "images": {name: len(split) for name, split in self.splits.items()},
            "world_size": batches.world_size,
            "global_batch": batches.global_batch,
            "device_batch": batches.device_batch,
            "accumulation": batches.accumulation,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "total_steps": self.plan.total_steps,
            "lr": self.plan.peak_lr,
            "precision": self.precision,
        }


def dry_run(config: Config, world_size: int | None = None) -> DryRun:
    """Check and plan the run on `world_size` processes, by default those that the launcher started.

    Raises UserError where the run would be refused, but for what only its devices, the other processes or the
    content of the images could tell.
    """
    if world_size is not None and world_size < 1:
        raise UserError(f"--world-size must be at least 1, not {world_size}")
    folder = folder_of(config)
    with collected_choices(logger) as choices:
        config = setup.check_config(config, folder)
        splits = build.open_splits(config)
        config = build.resolve(config, splits["train"])
        checkpoint = _checkpoint(config, folder)
        config, plan = setup.plan_run(config, splits["train"], checkpoint, world_size)
        precision = _devices(config, plan)
        spec = _network(config, splits, checkpoint)
        if config.train.compile != "off":
            before = checkpoint.context if checkpoint else None
            note_choice(
                "compile", *wanted_compile(config, spec, plan.work(choose_engine(config).name), before)
            )
        note_saving(config, choose_engine(config).name)
        build.check_loaders(config, splits, plan.batches)
        if checkpoint:
            _check_resumed(config, splits, plan, precision, checkpoint)
    return DryRun(
        config=config,
        folder=folder,
        splits=splits,
        plan=plan,
        spec=spec,
        precision=precision,
        choices=choices,
    )


def _checkpoint(config: Config, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to resume from; unlike in a run, nothing is repaired."""
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint)
    found = find_checkpoint(config.run.resume, checkpoints, folder)
    if found:
        note_choice("resumes", f"{found.path}, step {found.progress.step:,}")
    return found


def _devices(config: Config, plan: setup.RunPlan) -> Precision:
    precision, why = devices.choose_precision(config)
    engine = choose_engine(config)
    if isinstance(engine, ShardedEngine) or engine.name != "DDP":
        reject_ddp_only_options(config, engine.name, precision)
    device = "cpu" if devices.on_cpu(config) else torch.cuda.get_device_name(0)
    world, here = plan.batches.world_size, distributed.world_size()
    note_choice("devices", f"world size {world} ({device})", "" if world == here else f"planned, {here} here")
    note_choice("precision", precision, why)
    asked = config.train.memory_format
    if asked == "auto":
        note_choice("memory format", "auto", f"measured when the run starts, unless known in {CACHE_FILE}")
    else:
        note_choice("memory format", asked, "as configured")
    return precision


def _network(config: Config, splits: dict[str, Dataset], checkpoint: Checkpoint | None) -> NetworkSpec:
    """The network is built, with weights that are files and with its task and optimizer, to be checked."""
    description = build.describe_network(config, splits)
    if config.model.pretrained and config.model.pretrained.startswith(("torchvision:", "timm:")):
        note_choice("weights", config.model.pretrained, "loaded, or downloaded, when the run starts")
        config = replace(config, model=replace(config.model, pretrained=None))
    network = setup.build_network(config, description)
    setup.build_task(config, splits["train"], torch.device("cpu"))
    build_optimizer(network, config.optim, False)
    return network.spec


def _check_resumed(
    config: Config,
    splits: dict[str, Dataset],
    plan: setup.RunPlan,
    precision: Precision,
    checkpoint: Checkpoint,
) -> None:
    engine, before = choose_engine(config), checkpoint.context
    engine.check_checkpoint(before.engine, before.world_size)
    if config.train.precision == "auto":
        precision = before.precision
    kept = FORMATS[before.memory_format]
    check_changes(checkpoint, config, setup.describe_run(splits, plan, engine, precision, kept, "off"))


def dry_run_text(planned: DryRun) -> str:
    """All of it for people: choices, the network part by part, memory, and the learning rate's curve."""
    resolution = planned.config.data.train_res or 0
    rows = [*planned.choices, data_row(planned.splits, resolution), network_row(planned.spec, resolution)]
    rows += _per_rank(planned)
    title = f"anynet {__version__}: {planned.folder.path} (dry run: nothing is trained or written)"
    lines = [title, *banner_lines(banner_rows(planned.config, planned.plan, rows))]
    parts = part_complexities(planned.spec, resolution)
    network = table_text(parts_table(f"network at {resolution} px", planned.spec, parts))
    curve = ["  learning rate", *lr_plot(planned.plan.learning_rate, planned.plan.total_steps)]
    blocks = ["\n".join(lines), network, _memory_text(planned, resolution), "\n".join(curve)]
    return "\n\n".join(block.strip("\n") for block in blocks)


def _per_rank(planned: DryRun) -> Iterator[Choice]:
    plan, world = planned.plan, planned.plan.batches.world_size
    if world > 1:
        images = min(plan.images, plan.steps_per_epoch * plan.batches.global_batch)
        yield Choice("of each rank", f"about {images / world:,.0f} of {images:,} training images an epoch")


def _memory_text(planned: DryRun, resolution: int) -> str:
    batch, optimizer = planned.plan.batches.device_batch, known_optimizer(planned.config.optim.name)
    checkpointing = planned.config.train.activation_checkpointing
    try:
        needed = training_memory(planned.spec, resolution, batch, planned.precision, optimizer, checkpointing)
    except UnknownMemoryError as error:
        return f"  memory: {str(error).splitlines()[0]}"
    note = ""
    if not devices.on_cpu(planned.config):
        total = torch.cuda.get_device_properties(0).total_memory
        note = f"The device here has {total / 2**20:,.0f} MiB."
    return table_text(memory_table({planned.precision: needed}, batch, optimizer), note)
