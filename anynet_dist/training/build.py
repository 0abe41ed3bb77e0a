"""From a Config to the plain arguments of the other rooms: networks and loaders."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config.errors import ConfigError
from anynet_dist.config.schema import AugmentConfig, Config
from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.dataset import Dataset, open_dataset, typical_side
from anynet_dist.data.image_folders import readable
from anynet_dist.data.loaders.base import Loader, Placement
from anynet_dist.data.loaders.factory import eval_loader, eval_request, train_loader, train_request
from anynet_dist.data.order import TrainPlan, split_indices
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from anynet_dist.data.workers import choose_workers
from anynet_dist.models.complexity import check_resolution, part_complexities
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.runs.network_file import NetworkDescription
from anynet_dist.runs.plugin_files import PLUGINS, kept_names
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.system.plugins import load_plugins
from anynet_dist.training.optim.losses import balanced_weights, build_loss, loss_problems
from anynet_dist.training.optim.optimizers import optimizer_problems
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import schedule_problems
from anynet_dist.training.tasks import task_problems

logger = logging.getLogger(__name__)

Channels = tuple[float, float, float]
UNKNOWN_CLASSES = 1000
USUAL_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)


Splits = dict[str, Dataset]


def model_arguments(config: Config) -> dict[str, Any]:
    """What the config says of the network's shape, as arguments of `network_spec` and `build_anynet`."""
    arguments = asdict(config.model)
    for start in ("pretrained", "freeze"):
        del arguments[start]
    regnet = {key: value for key, value in arguments["regnet"].items() if value is not None}
    arguments["regnet"] = regnet or None
    return {key: value for key, value in arguments.items() if value is not None}


def check_network(config: Config) -> NetworkSpec:
    """Check the model's description, before any data is touched. Raises UserError saying what to change."""
    load_plugins(config.plugins)
    spec = network_spec(**{"num_classes": UNKNOWN_CLASSES, **model_arguments(config)})
    for resolution in (config.data.train_res, config.data.eval_res):
        if resolution:
            check_resolution(spec, resolution)
    return spec


def check_choices(config: Config) -> None:
    """Check optimizer, schedule, loss and task by name and options, once plug-ins are loaded and before any
    data is touched. Raises ConfigError with all that is wrong."""
    problems = [
        *optimizer_problems(config.optim),
        *schedule_problems(config.schedule),
        *loss_problems(config.train),
        *task_problems(config.train.task),
    ]
    if problems:
        raise ConfigError(problems)


def open_splits(config: Config) -> Splits:
    """The splits that the config names, by name: train, and val and test where there are any."""
    data = config.data
    if data.train is None:
        raise UserError("data.train is not set: name a .beton file or an image folder, or --data.train PATH")
    train = open_dataset(data.train)
    splits = {"train": train}
    for name, path in (("val", data.val), ("test", data.test)):
        if path is not None:
            splits[name] = open_dataset(path, classes=train.classes)
    if data.val_fraction and data.val is None:
        chosen, held_out = split_indices(len(train), data.val_fraction, config.run.seed)
        splits["val"] = train.subset(held_out)
        splits["train"] = train.subset(chosen)
    return splits


def resolve(config: Config, data: Dataset) -> Config:
    """The config with what the training data decides filled in: classes, resolutions, mean and std."""
    classes = config.model.num_classes or len(data.classes)
    if classes < len(data.classes):
        raise UserError(
            f"model.num_classes: {classes} outputs for the {len(data.classes)} classes of the data"
        )
    train_res = config.data.train_res or _own_resolution(config, data)
    eval_res = config.data.eval_res or train_res
    mean, std = _normalisation(config, data)
    resolved = replace(
        config,
        model=replace(config.model, num_classes=classes),
        data=replace(
            config.data,
            train_res=train_res,
            eval_res=eval_res,
            mean=mean,
            std=std,
        ),
    )
    check_network(resolved)
    return resolved


def _normalisation(config: Config, data: Dataset) -> tuple[Channels, Channels]:
    """Mean and deviation: those of the config, else those of the data, else those of ImageNet."""
    mean, std = config.data.mean or data.mean, config.data.std or data.std
    missing = [name for name, value in (("data.mean", mean), ("data.std", std)) if value is None]
    if missing:
        logger.info(
            "%s: those of ImageNet, because the images of %s were not measured ('anynet data build' does)",
            " and ".join(missing),
            readable(data.path),
        )
    return mean or IMAGENET_MEAN, std or IMAGENET_STD


def _own_resolution(config: Config, data: Dataset) -> int:
    if data.constant_shape is not None:
        return data.constant_shape[0]
    side = typical_side(data)
    option = f"--data.train_res {max((usual for usual in USUAL_SIDES if usual <= side), default=side)}"
    if not config.data.augment.random_resized_crop:
        option += " --data.augment.random_resized_crop true"
    raise UserError(
        "data.train_res is not set, and the images differ in size: their shorter sides are about"
        f" {side} pixels, so try {option}"
    )


def _crop_ratio(config: Config, data: Dataset) -> float | None:
    """The centre crop of evaluation; None for squares of one size, which are taken whole."""
    shape = data.constant_shape
    return None if shape and shape[0] == shape[1] else config.data.eval_crop_ratio


def describe_network(config: Config, splits: Splits) -> NetworkDescription:
    """The description that goes into the run folder's files, whose plug-ins are the run's own copies.

    `config` must be resolved.
    """
    evaluated = next(splits[name] for name in ("test", "val", "train") if name in splits)
    data = config.data
    assert data.mean is not None
    assert data.std is not None
    assert data.eval_res is not None
    return NetworkDescription(
        model=model_arguments(config),
        classes=splits["train"].classes,
        mean=data.mean,
        std=data.std,
        resolution=data.eval_res,
        crop_ratio=_crop_ratio(config, evaluated),
        plugins=[f"{PLUGINS}/{name}" for name in kept_names(config.plugins)],
    )


def train_plan(config: Config, data: Dataset, plan: BatchPlan) -> TrainPlan:
    """Which images make up the batches of an epoch. Raises UserError where there are too few of them."""
    return TrainPlan(
        num_samples=len(data), batch=plan, seed=config.run.seed, repeats=config.data.augment.repeats
    )


def check_batch_norm(config: Config, plan: BatchPlan, order: TrainPlan) -> None:
    """Raise UserError where batch norm would see a single value of a channel, of which it can make nothing.

    `config` must be resolved.
    """
    images = plan.device_batch
    if order.last_batch:
        images = min(images, order.last_batch // (plan.world_size * plan.accumulation))
    if images > 1:
        return
    resolution = train_resolution(config.data, epoch=0)  # the smallest
    for part in part_complexities(check_network(config), resolution):
        if (
            part.name.startswith("stage")
            and part.height * part.width == 1
            and part.name not in config.model.freeze
        ):
            last = "the last batch of an epoch has" if plan.device_batch > 1 else "a batch has"
            raise UserError(
                f"batch norm would see a single value of a channel: {last} 1 image on a device, and at"
                f" {resolution} x {resolution} pixels {part.name} puts out 1 x 1; set data.drop_last to true,"
                " or choose another train.global_batch, larger images or smaller model.strides"
            )


def build_criterion(config: Config, data: Dataset, device: torch.device) -> nn.Module:
    """The loss of logits (N, classes) and labels (N,), or (N, classes) where they are mixed."""
    weights, classes = None, config.model.num_classes or 0
    if config.train.class_weights == "balanced":
        weights = balanced_weights(data.labels, classes).to(device)
    return build_loss(config.train, weights, classes, device)


def build_train_loader(
    config: Config,
    data: Dataset,
    plan: BatchPlan,
    accelerator: Accelerator,
    memory_format: torch.memory_format,
) -> Loader:
    """This rank's part of the training images; `config` must be resolved."""
    placement = _placement(config, accelerator, memory_format)
    loader = train_loader(data, plan, **_train_arguments(config, placement))
    loader.set_resolution(train_resolution(config.data, epoch=0))
    return loader


def augmentation(config: AugmentConfig) -> Augmentation:
    """The part of it that the loader does; mixing is the trainer's."""
    return Augmentation(**{item.name: getattr(config, item.name) for item in fields(Augmentation)})


def build_eval_loader(
    config: Config, data: Dataset, accelerator: Accelerator, memory_format: torch.memory_format
) -> Loader:
    """This rank's part of a split to evaluate, each sample once; `config` must be resolved."""
    placement = _placement(config, accelerator, memory_format)
    return eval_loader(data, config.eval.batch_size, **_eval_arguments(config, data, placement))


def check_loaders(config: Config, splits: Splits, plan: BatchPlan) -> None:
    """Check what the loaders of all splits would be made of, and note what is chosen; `config` is resolved.

    Raises UserError as the loaders do, but for what only reading the images or the device's memory can tell.
    """
    placement = Placement(world=plan.world_size, workers=config.data.workers)
    requests = [train_request(splits["train"], plan, **_train_arguments(config, placement))]
    for name, split in splits.items():
        if name != "train":
            arguments = _eval_arguments(config, split, placement)
            requests.append(eval_request(split, config.eval.batch_size, **arguments))
    for request, _ in requests:
        choose_workers(request.placement.workers, distributed.local_world_size())


def _train_arguments(config: Config, placement: Placement) -> dict[str, Any]:
    return {
        "augment": augmentation(config.data.augment),
        "resolution": config.data.train_res,  # the largest
        "seed": config.run.seed,
        "normalisation": resolved_normalisation(config),
        "placement": placement,
        "loader": config.data.loader,
    }


def _eval_arguments(config: Config, data: Dataset, placement: Placement) -> dict[str, Any]:
    return {
        "resolution": config.data.eval_res,
        "crop_ratio": _crop_ratio(config, data),
        "eval_resize": config.data.eval_resize,
        "normalisation": resolved_normalisation(config),
        "placement": placement,
        "loader": config.data.loader,
    }


def resolved_normalisation(config: Config) -> Normalisation:
    """That of a config which `resolve` has completed."""
    assert config.data.mean is not None
    assert config.data.std is not None
    return Normalisation(config.data.mean, config.data.std)


def _placement(config: Config, accelerator: Accelerator, memory_format: torch.memory_format) -> Placement:
    return Placement(
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        local_world=distributed.local_world_size(),
        device=accelerator.device,
        workers=config.data.workers,
        channels_last=memory_format is torch.channels_last,
        copy_ahead=config.speed.copy_ahead,
    )
