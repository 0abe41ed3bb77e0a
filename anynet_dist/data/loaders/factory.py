"""The one place to get a loader from: FFCV's where it is installed, torch's where it is not, with the same
options."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from anynet_dist.data.dataset import DataInfo, open_dataset
from anynet_dist.data.loaders.base import LOADERS, EvalResize, Loader, LoaderName
from anynet_dist.data.loaders.transfer import Transfer
from anynet_dist.data.order import EvalPlan, Indices, Plan, TrainPlan
from anynet_dist.data.transforms.lighting import Lighting, LitLoader
from anynet_dist.data.transforms.params import Augmentation, Resize, SampleTransform
from anynet_dist.data.workers import start_server
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.install import install_command

logger = logging.getLogger(__name__)


def train_loader(
    data: DataInfo | Path | str,
    *,
    global_batch: int,
    seed: int,
    resolution: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    augment: Augmentation | None = None,
    loader: LoaderName = "auto",
    indices: Indices | None = None,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
    local_world: int = 1,
    workers: int | None = None,
    channels_last: bool = False,
    repeats: int = 1,
    drop_last: bool = True,
    max_resolution: int | None = None,
) -> Loader:
    """A loader over this rank's micro-batches, shuffled by (seed, epoch) and augmented.

    `indices` chooses samples (default: all). `repeats` is the number of differently augmented copies of a
    sample in a global batch. Without `drop_last` an epoch may end with a smaller global batch, whose
    micro-batches differ in size by one at most. `max_resolution` is the largest that `set_resolution` is
    going to ask for (default: `resolution`). Raises UserError for combinations that cannot work.
    """
    data, indices = _checked(data, indices)
    num_samples = data.num_samples if indices is None else len(indices)
    plan = TrainPlan(
        num_samples=num_samples,
        global_batch=global_batch,
        seed=seed,
        accumulation=accumulation,
        rank=rank,
        world=world,
        repeats=repeats,
        drop_last=drop_last,
    )
    transfer = Transfer(device, mean, std, channels_last)
    red, green, blue = (round(255 * value) for value in mean)
    transform = SampleTransform(
        resolution=resolution, augment=augment or Augmentation(), fill=(red, green, blue), seed=seed
    )
    name = _choose(data, loader, transform)
    made = _loader(data, plan, transform, transfer, name, indices, workers, local_world, max_resolution)
    if transform.augment is None or not transform.augment.lighting:
        return made
    light = Lighting(transform.augment.lighting, std, seed)
    return LitLoader(made, light, plan, indices, data.num_samples)


def eval_loader(
    data: DataInfo | Path | str,
    *,
    batch_size: int,
    resolution: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    crop_ratio: float | None = None,
    loader: LoaderName = "auto",
    indices: Indices | None = None,
    rank: int = 0,
    world: int = 1,
    local_world: int = 1,
    workers: int | None = None,
    channels_last: bool = False,
    eval_resize: EvalResize = "auto",
    max_resolution: int | None = None,
) -> Loader:
    """A loader over this rank's share of every sample exactly once, in order; the last batch may be smaller.

    `crop_ratio` is the side of the centre crop over the shorter side; None takes images whole. `eval_resize`
    is how the crop is resized: `area` is what FFCV does, `bilinear` (antialiased) what torchvision does,
    `auto` what comes with the loader. `max_resolution` is as for `train_loader`.
    """
    data, indices = _checked(data, indices)
    num_samples = data.num_samples if indices is None else len(indices)
    plan = EvalPlan(num_samples=num_samples, batch_size=batch_size, rank=rank, world=world)
    if eval_resize not in get_args(EvalResize):
        raise unknown_name("eval_resize", eval_resize, get_args(EvalResize))
    method: Resize = "area" if eval_resize == "area" else "bilinear"
    transform = SampleTransform(resolution=resolution, crop_ratio=crop_ratio, resize=method)
    transfer = Transfer(device, mean, std, channels_last)
    name = _choose(data, loader, transform, eval_resize)
    return _loader(data, plan, transform, transfer, name, indices, workers, local_world, max_resolution)


def ffcv_installed() -> bool:
    """Whether FFCV can be imported."""
    return importlib.util.find_spec("ffcv") is not None


def install_ffcv() -> str:
    """How to install FFCV, as a part of a message."""
    return (
        "'make setup' in a checkout installs it; by hand it needs libturbojpeg, OpenCV and"
        f" pkg-config, then {install_command('ffcv')}"
    )


def _loader(
    data: DataInfo,
    plan: Plan,
    transform: SampleTransform,
    transfer: Transfer,
    name: LoaderName,
    indices: Indices | None,
    workers: int | None,
    local_world: int,
    max_resolution: int | None,
) -> Loader:
    _check_shape(data, transform)
    if max_resolution is not None and max_resolution < transform.resolution:
        raise UserError(f"max_resolution is {max_resolution}, less than the {transform.resolution} of now")
    if name == "ffcv":
        from anynet_dist.data.loaders.ffcv import FFCVLoader

        assert data.table is not None
        return FFCVLoader(
            data.table,
            plan,
            transform,
            transfer,
            indices=indices,
            workers=workers,
            local_world=local_world,
            max_resolution=max_resolution,
        )
    if name == "device":
        from anynet_dist.data.loaders.device import DeviceLoader

        return DeviceLoader(
            data.samples,
            _one_shape(data),
            plan,
            transform,
            transfer,
            indices=indices,
            workers=workers,
            local_world=local_world,
        )
    if workers != 0:
        start_server()  # before this process imports torchvision, which takes as long
    from anynet_dist.data.loaders.torch import TorchLoader

    return TorchLoader(
        data.samples, plan, transform, transfer, indices=indices, workers=workers, local_world=local_world
    )


def _choose(
    data: DataInfo, name: LoaderName, transform: SampleTransform, eval_resize: EvalResize = "auto"
) -> LoaderName:
    """The loader to take: the one that is asked for, if it can do what is asked, or the best for `auto`."""
    if name not in LOADERS:
        raise unknown_name("loader", name, LOADERS)
    beyond_ffcv = list(transform.augment.needs_torchvision) if transform.augment else []
    beyond_ffcv += ["eval_resize: bilinear"] if eval_resize == "bilinear" else []
    if name == "ffcv":
        _check_ffcv(data, beyond_ffcv)
    if name != "auto":
        return name
    if data.table is None:
        logger.info(
            "loader: torch, for %s is an image folder; FFCV reads .beton files, several times as fast",
            data.path,
        )
        return "torch"
    if not ffcv_installed():
        logger.warning(
            "loader: torch, because FFCV is not installed; it is several times as fast: %s", install_ffcv()
        )
        return "torch"
    if beyond_ffcv:
        logger.info("loader: torch, because FFCV cannot do %s", ", ".join(beyond_ffcv))
        return "torch"
    return "ffcv"


def _check_ffcv(data: DataInfo, beyond_ffcv: Sequence[str]) -> None:
    if data.table is None:
        raise UserError(f"{data.path}: FFCV reads .beton files; make one with 'anynet data build'")
    if not ffcv_installed():
        raise UserError(f"loader 'ffcv' asks for FFCV, which is not installed; {install_ffcv()}")
    if beyond_ffcv:
        raise UserError(
            f"loader 'ffcv' cannot do {', '.join(beyond_ffcv)}: take loader 'torch', or 'device' for images "
            "of one size that fit into the device's memory"
        )


def _one_shape(data: DataInfo) -> tuple[int, int]:
    if data.constant_shape is None:
        raise UserError(
            f"{data.path}: its images differ in size, but loader 'device' keeps images of one size in "
            "memory; take loader 'ffcv' or 'torch'"
        )
    return data.constant_shape


def _checked(data: DataInfo | Path | str, indices: Indices | None) -> tuple[DataInfo, Indices | None]:
    data = data if isinstance(data, DataInfo) else open_dataset(data)
    if indices is not None:
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < data.num_samples:
            raise UserError(f"{data.path}: indices must lie between 0 and {data.num_samples - 1}")
    return data, indices


def _check_shape(data: DataInfo, transform: SampleTransform) -> None:
    if not transform.needs_square:
        return
    if data.constant_shape is None:
        remedy = "random_resized_crop" if transform.augment else "a centre-crop ratio"
        raise UserError(f"{data.path}: its images differ in size, so they need {remedy}")
    height, width = data.constant_shape
    if height != width:
        remedy = "random_resized_crop" if transform.augment else "a centre-crop ratio"
        raise UserError(
            f"{data.path}: its images are {width}x{height} pixels, not square, so they need {remedy}"
        )
