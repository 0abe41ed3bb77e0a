"""Loaders from options in one flat list, as tests vary them one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.dataset import Dataset, open_dataset
from anynet_dist.data.loaders.base import Loader, Placement
from anynet_dist.data.loaders.factory import eval_loader, train_loader
from anynet_dist.data.transforms.normalisation import Normalisation

AS_BYTES = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
"""With these, what comes out are the bytes that went in."""


def make_train(data: Dataset | Path | str, **options: Any) -> Loader:
    """A training loader; its options are those of BatchPlan, Normalisation, Placement and `train_loader`."""
    data, rest = _split(data, options)
    names = ("global_batch", "accumulation", "drop_last")
    batch = {name: rest.pop(name) for name in names if name in rest}
    world = rest["placement"].world
    return train_loader(data, BatchPlan(world_size=world, **batch), **rest)


def make_eval(data: Dataset | Path | str, **options: Any) -> Loader:
    """An evaluation loader, in the same way."""
    data, rest = _split(data, options)
    return eval_loader(data, **rest)


def _split(data: Dataset | Path | str, options: dict[str, Any]) -> tuple[Dataset, dict[str, Any]]:
    rest = {**AS_BYTES, **options}
    data = data if isinstance(data, Dataset) else open_dataset(data)
    if "indices" in rest:
        data = data.subset(rest.pop("indices"))
    names = ("rank", "world", "local_world", "device", "workers", "channels_last")
    rest["placement"] = Placement(**{name: rest.pop(name) for name in names if name in rest})
    rest["normalisation"] = Normalisation(rest.pop("mean"), rest.pop("std"))
    return data, rest
