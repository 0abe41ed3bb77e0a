"""The one place to get a loader from: FFCV's where it is installed, torch's where it is not, with the same
options."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.dataset import Dataset, one_shape, open_dataset
from anynet_dist.data.loaders.base import Loader, LoaderRequest, Placement
from anynet_dist.data.loaders.names import EVAL_RESIZES, LOADERS, EvalResize, LoaderName
from anynet_dist.data.order import EvalPlan, TrainPlan
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.lighting import Lighting, LitLoader
from anynet_dist.data.transforms.normalisation import IMAGENET, Normalisation
from anynet_dist.data.transforms.params import SampleTransform
from anynet_dist.data.workers import start_server
from anynet_dist.system.choices import note_choice, tell_choice
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.install import install_command

logger = logging.getLogger(__name__)


def train_loader(
    data: Dataset | Path | str,
    batch: BatchPlan | int,
    augment: Augmentation | None = None,
    *,
    resolution: int | None = None,
    seed: int = 0,
    normalisation: Normalisation | None = None,
    placement: Placement | None = None,
    loader: LoaderName = "auto",
) -> Loader:
    """A loader over this rank's micro-batches, shuffled by (seed, epoch) and augmented.

    `batch` is the global batch. With one that keeps the last samples (`drop_last`) an epoch may end with a
    smaller global batch, whose micro-batches differ in size by one at most. `resolution` is the side of the
    images in pixels (default: their own); `set_resolution` may ask for smaller ones. Without a
    `normalisation` it is that of the data set, for image folders that of ImageNet. Raises UserError for
    combinations that cannot work.
    """
    request, name = train_request(
        data,
        batch,
        augment,
        resolution=resolution,
        seed=seed,
        normalisation=normalisation,
        placement=placement,
        loader=loader,
    )
    made = _make(request, name)
    if augment is None or not augment.lighting:
        return made
    return LitLoader(made, Lighting(augment.lighting, request.normalisation.std, seed), request)


def train_request(
    data: Dataset | Path | str,
    batch: BatchPlan | int,
    augment: Augmentation | None = None,
    *,
    resolution: int | None = None,
    seed: int = 0,
    normalisation: Normalisation | None = None,
    placement: Placement | None = None,
    loader: LoaderName = "auto",
) -> tuple[LoaderRequest, LoaderName]:
    """What `train_loader` asks of which loader: its arguments checked, with nothing started or loaded."""
    data, placement = _opened(data), placement or Placement()
    augment = augment or Augmentation()
    if isinstance(batch, int):
        batch = BatchPlan(global_batch=batch, world_size=placement.world)
    if batch.world_size != placement.world:
        raise UserError(f"the batch is divided among {batch.world_size} processes, not {placement.world}")
    plan = TrainPlan(
        num_samples=len(data), batch=batch, seed=seed, rank=placement.rank, repeats=augment.repeats
    )
    normalisation = normalisation or _own_normalisation(data)
    transform = SampleTransform(
        resolution=resolution or _own_resolution(data),
        augment=augment,
        fill=normalisation.mean_colour,
        seed=seed,
    )
    request = LoaderRequest(
        data=data, plan=plan, transform=transform, normalisation=normalisation, placement=placement
    )
    return _checked(request, _choose(data, loader, transform))


def eval_loader(
    data: Dataset | Path | str,
    batch_size: int,
    *,
    resolution: int | None = None,
    crop_ratio: float | None = None,
    eval_resize: EvalResize = "auto",
    normalisation: Normalisation | None = None,
    placement: Placement | None = None,
    loader: LoaderName = "auto",
) -> Loader:
    """A loader over this rank's part of the samples, each exactly once, in order; the last batch may be
    smaller.

    `crop_ratio` is the side of the centre crop over the shorter side; None takes images whole. `eval_resize`
    is how the crop is resized: `area` as FFCV does it, `bilinear` (antialiased) as torchvision does it,
    `auto` as the loader does it. The other arguments are those of `train_loader`.
    """
    return _make(
        *eval_request(
            data,
            batch_size,
            resolution=resolution,
            crop_ratio=crop_ratio,
            eval_resize=eval_resize,
            normalisation=normalisation,
            placement=placement,
            loader=loader,
        )
    )


def eval_request(
    data: Dataset | Path | str,
    batch_size: int,
    *,
    resolution: int | None = None,
    crop_ratio: float | None = None,
    eval_resize: EvalResize = "auto",
    normalisation: Normalisation | None = None,
    placement: Placement | None = None,
    loader: LoaderName = "auto",
) -> tuple[LoaderRequest, LoaderName]:
    """What `eval_loader` asks of which loader: its arguments checked, with nothing started or loaded."""
    data, placement = _opened(data), placement or Placement()
    plan = EvalPlan(
        num_samples=len(data), batch_size=batch_size, rank=placement.rank, world_size=placement.world
    )
    if eval_resize not in EVAL_RESIZES:
        raise unknown_name("eval_resize", eval_resize, EVAL_RESIZES)
    transform = SampleTransform(
        resolution=resolution or _own_resolution(data),
        crop_ratio=crop_ratio,
        resize="area" if eval_resize == "area" else "bilinear",
    )
    request = LoaderRequest(
        data=data,
        plan=plan,
        transform=transform,
        normalisation=normalisation or _own_normalisation(data),
        placement=placement,
    )
    return _checked(request, _choose(data, loader, transform, eval_resize))


def ffcv_installed() -> bool:
    """Whether FFCV can be imported."""
    return importlib.util.find_spec("ffcv") is not None


def install_ffcv() -> str:
    """How to install FFCV, as a part of a message."""
    return (
        "'make setup' in a checkout installs it; by hand it needs libturbojpeg, OpenCV and"
        f" pkg-config, then {install_command('ffcv')}"
    )


def _checked(request: LoaderRequest, name: LoaderName) -> tuple[LoaderRequest, LoaderName]:
    _check_shape(request.data, request.transform)
    if name == "device":
        one_shape(request.data)
    return request, name


def _make(request: LoaderRequest, name: LoaderName) -> Loader:
    if name == "ffcv":
        from anynet_dist.data.loaders.ffcv import FFCVLoader

        return FFCVLoader(request)
    if name == "device":
        from anynet_dist.data.loaders.device import DeviceLoader

        return DeviceLoader(request)
    if request.placement.workers != 0:
        start_server()  # before this process imports torchvision, which takes as long
    from anynet_dist.data.loaders.torch import TorchLoader

    return TorchLoader(request)


def _opened(data: Dataset | Path | str) -> Dataset:
    return data if isinstance(data, Dataset) else open_dataset(data)


def _own_normalisation(data: Dataset) -> Normalisation:
    if data.normalisation is None:
        logger.info("%s: normalised as ImageNet, because its images were not measured", data.path)
    return data.normalisation or IMAGENET


def _own_resolution(data: Dataset) -> int:
    if data.constant_shape is None:
        raise UserError(f"{data.path}: its images differ in size, so a resolution is needed")
    return data.constant_shape[0]


def _choose(
    data: Dataset, name: LoaderName, transform: SampleTransform, eval_resize: EvalResize = "auto"
) -> LoaderName:
    """The loader to take: the one that is asked for, if it can do what is asked, or the best for `auto`."""
    if name not in LOADERS:
        raise unknown_name("loader", name, LOADERS)
    beyond_ffcv = list(transform.augment.needs_torchvision) if transform.augment else []
    beyond_ffcv += ["eval_resize: bilinear"] if eval_resize == "bilinear" else []
    if name == "ffcv":
        _check_ffcv(data, beyond_ffcv)
    if name != "auto":
        note_choice("loader", name, "as configured")
        return name
    if data.table is None:
        why = "the data is an image folder; FFCV reads .beton files, several times as fast"
        tell_choice(logger, "loader", "torch", why)
        return "torch"
    if not ffcv_installed():
        logger.warning(
            "loader: torch, because FFCV is not installed; it is several times as fast: %s", install_ffcv()
        )
        note_choice("loader", "torch", "see the warning")
        return "torch"
    if beyond_ffcv:
        tell_choice(logger, "loader", "torch", f"FFCV cannot do {', '.join(beyond_ffcv)}")
        return "torch"
    note_choice("loader", "ffcv", "FFCV is installed and the data is a .beton file")
    return "ffcv"


def _check_ffcv(data: Dataset, beyond_ffcv: Sequence[str]) -> None:
    if data.table is None:
        raise UserError(f"{data.path}: FFCV reads .beton files; make one with 'anynet data build'")
    if not ffcv_installed():
        raise UserError(f"loader 'ffcv' asks for FFCV, which is not installed; {install_ffcv()}")
    if beyond_ffcv:
        raise UserError(
            f"loader 'ffcv' cannot do {', '.join(beyond_ffcv)}: take loader 'torch', or 'device' for images "
            "of one size that fit into the device's memory"
        )


def _check_shape(data: Dataset, transform: SampleTransform) -> None:
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
