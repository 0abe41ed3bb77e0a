"""From a Config to the plain arguments of the other rooms: networks and loaders."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config.errors import ConfigError
from anynet_dist.config.schema import AugmentConfig, Config
from anynet_dist.data.dataset import DataInfo, open_dataset, typical_side
from anynet_dist.data.image_folders import readable
from anynet_dist.data.loaders.base import Loader
from anynet_dist.data.loaders.factory import eval_loader, train_loader
from anynet_dist.data.order import Indices, TrainPlan, split_indices
from anynet_dist.data.transforms.params import Augmentation
from anynet_dist.models.complexity import check_resolution, part_complexities
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.runs.network_file import NetworkDescription
from anynet_dist.runs.plugin_files import PLUGINS, kept_names
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.system.plugins import load_plugins
from anynet_dist.training.distributed.batch_plan import BatchPlan
from anynet_dist.training.optim.losses import balanced_weights, build_loss, loss_problems
from anynet_dist.training.optim.optimizers import optimizer_problems
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import schedule_problems

logger = logging.getLogger(__name__)

Channels = tuple[float, float, float]
UNKNOWN_CLASSES = 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL_SIDES = (32, 48, 64, 96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Split:
    """Images to train on or to evaluate: a data set and which of its samples."""

    path: str
    info: DataInfo
    indices: Indices | None = None

    def __len__(self) -> int:
        return self.info.num_samples if self.indices is None else len(self.indices)

    @property
    def labels(self) -> Indices:
        """The class numbers of its samples."""
        return self.info.labels if self.indices is None else self.info.labels[self.indices]


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
    """Check optimizer, schedule and loss by name and options, once plug-ins are loaded and before any data is
    touched. Raises ConfigError with all that is wrong."""
    problems = [
        *optimizer_problems(config.optim),
        *schedule_problems(config.schedule),
        *loss_problems(config.train),
    ]
    if problems:
        raise ConfigError(problems)


def open_splits(config: Config) -> dict[str, Split]:
    """The splits that the config names, by name: train, and val and test where there are any."""
    data = config.data
    if data.train is None:
        raise UserError("data.train is not set: name a .beton file or an image folder, or --data.train PATH")
    train = open_dataset(data.train)
    splits = {"train": Split(data.train, train)}
    for name, path in (("val", data.val), ("test", data.test)):
        if path is not None:
            splits[name] = Split(path, open_dataset(path, classes=train.classes))
    if data.val_fraction and data.val is None:
        chosen, held_out = split_indices(train.num_samples, data.val_fraction, config.run.seed)
        splits["val"] = replace(splits["train"], indices=held_out)
        splits["train"] = replace(splits["train"], indices=chosen)
    return splits


def resolve(config: Config, info: DataInfo) -> Config:
    """The config with what the training data decides filled in: classes, resolutions, mean and std."""
    classes = config.model.num_classes or len(info.classes)
    if classes < len(info.classes):
        raise UserError(
            f"model.num_classes: {classes} outputs for the {len(info.classes)} classes of the data"
        )
    train_res = config.data.train_res or _own_resolution(config, info)
    eval_res = config.data.eval_res or train_res
    mean, std = _normalisation(config, info)
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


def _normalisation(config: Config, info: DataInfo) -> tuple[Channels, Channels]:
    """Mean and deviation: those of the config, else those of the data, else those of ImageNet."""
    mean, std = config.data.mean or info.mean, config.data.std or info.std
    missing = [name for name, value in (("data.mean", mean), ("data.std", std)) if value is None]
    if missing:
        logger.info(
            "%s: those of ImageNet, for nobody measured the images of %s ('anynet data build' does)",
            " and ".join(missing),
            readable(info.path),
        )
    return mean or IMAGENET_MEAN, std or IMAGENET_STD


def _own_resolution(config: Config, info: DataInfo) -> int:
    if info.constant_shape is not None:
        return info.constant_shape[0]
    side = typical_side(info)
    option = f"--data.train_res {max((usual for usual in USUAL_SIDES if usual <= side), default=side)}"
    if not config.data.augment.random_resized_crop:
        option += " --data.augment.random_resized_crop true"
    raise UserError(
        "data.train_res is not set, and the images differ in size: their shorter sides are about"
        f" {side} pixels, so try {option}"
    )


def _crop_ratio(config: Config, split: Split) -> float | None:
    """The centre crop of evaluation; None for squares of one size, which are taken whole."""
    shape = split.info.constant_shape
    return None if shape and shape[0] == shape[1] else config.data.eval_crop_ratio


def describe_network(config: Config, splits: dict[str, Split]) -> NetworkDescription:
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
        classes=splits["train"].info.classes,
        mean=data.mean,
        std=data.std,
        resolution=data.eval_res,
        crop_ratio=_crop_ratio(config, evaluated),
        plugins=[f"{PLUGINS}/{name}" for name in kept_names(config.plugins)],
    )


def train_plan(config: Config, split: Split, plan: BatchPlan) -> TrainPlan:
    """Which images make up the batches of an epoch. Raises UserError where there are too few of them."""
    return TrainPlan(
        num_samples=len(split),
        global_batch=plan.global_batch,
        seed=config.run.seed,
        accumulation=plan.accumulation,
        world=plan.world_size,
        repeats=config.data.augment.repeats,
        drop_last=config.data.drop_last,
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


def build_criterion(config: Config, split: Split, device: torch.device) -> nn.Module:
    """The loss of logits (N, classes) and labels (N,), or (N, classes) where they are mixed."""
    weights, classes = None, config.model.num_classes or 0
    if config.train.class_weights == "balanced":
        weights = balanced_weights(split.labels, classes).to(device)
    return build_loss(config.train, weights, classes, device)


def build_train_loader(
    config: Config,
    split: Split,
    plan: BatchPlan,
    accelerator: Accelerator,
    memory_format: torch.memory_format,
) -> Loader:
    """This rank's share of the training images; `config` must be resolved."""
    assert config.data.train_res is not None
    return train_loader(
        split.info,
        global_batch=plan.global_batch,
        accumulation=plan.accumulation,
        seed=config.run.seed,
        resolution=train_resolution(config.data, epoch=0),
        max_resolution=config.data.train_res,
        augment=_augmentation(config.data.augment),
        repeats=config.data.augment.repeats,
        drop_last=config.data.drop_last,
        **_loader_arguments(config, split, accelerator, memory_format),
    )


def _augmentation(config: AugmentConfig) -> Augmentation:
    """What the loader does of it; mixing is the trainer's, repeats the sample order's."""
    options = asdict(config)
    for elsewhere in ("mixup", "cutmix", "repeats"):
        del options[elsewhere]
    return Augmentation(crop_ratio_range=options.pop("crop_aspect"), **options)


def build_eval_loader(
    config: Config, split: Split, accelerator: Accelerator, memory_format: torch.memory_format
) -> Loader:
    """This rank's share of a split to evaluate, each sample once; `config` must be resolved."""
    assert config.data.eval_res is not None
    return eval_loader(
        split.info,
        batch_size=config.eval.batch_size,
        resolution=config.data.eval_res,
        crop_ratio=_crop_ratio(config, split),
        eval_resize=config.data.eval_resize,
        **_loader_arguments(config, split, accelerator, memory_format),
    )


def _loader_arguments(
    config: Config, split: Split, accelerator: Accelerator, memory_format: torch.memory_format
) -> dict[str, Any]:
    """What loaders for training and for evaluation have in common."""
    data = config.data
    return {
        "loader": data.loader,
        "indices": split.indices,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "local_world": distributed.local_world_size(),
        "device": accelerator.device,
        "mean": data.mean,
        "std": data.std,
        "workers": data.workers,
        "channels_last": memory_format is torch.channels_last,
    }
