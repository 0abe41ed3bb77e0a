"""From a Config to the plain arguments of the other rooms: networks and loaders."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from anynet_dist.config.schema import AugmentConfig, Config
from anynet_dist.data.augment import Augmentation
from anynet_dist.data.loaders import DataInfo, Loader, eval_loader, open_dataset, train_loader
from anynet_dist.data.order import Indices, split_indices
from anynet_dist.models.complexity import check_resolution
from anynet_dist.models.registry import load_plugins
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.training.batches import BatchPlan
from anynet_dist.training.resolution import train_resolution
from anynet_dist.training.weights import NetworkDescription

logger = logging.getLogger(__name__)

UNKNOWN_CLASSES = 1000


@dataclass(frozen=True)
class Split:
    """Images to train on or to evaluate: a data set and which of its samples."""

    path: str
    info: DataInfo
    indices: Indices | None = None

    def __len__(self) -> int:
        return self.info.num_samples if self.indices is None else len(self.indices)


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
    train_res = config.data.train_res or _own_resolution(info)
    eval_res = config.data.eval_res or train_res
    if info.mean is None and config.data.mean is None:
        raise UserError(
            f"data.mean and data.std are not set, and {info.path} does not state them: set them,"
            f" or build a .beton file, which does, with 'anynet data build'"
        )
    resolved = replace(
        config,
        model=replace(config.model, num_classes=classes),
        data=replace(
            config.data,
            train_res=train_res,
            eval_res=eval_res,
            mean=config.data.mean or info.mean,
            std=config.data.std or info.std,
        ),
    )
    check_network(resolved)
    return resolved


def _own_resolution(info: DataInfo) -> int:
    if info.constant_shape is None:
        raise UserError(
            "data.train_res is not set, and the images differ in size: set it, for example to 224"
        )
    return info.constant_shape[0]


def _crop_ratio(config: Config, split: Split) -> float | None:
    """The centre crop of evaluation; None for squares of one size, which are taken whole."""
    shape = split.info.constant_shape
    return None if shape and shape[0] == shape[1] else config.data.eval_crop_ratio


def describe_network(config: Config, splits: dict[str, Split]) -> NetworkDescription:
    """The description that goes into weight files; `config` must be resolved."""
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
        plugins=config.plugins,
    )


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
