"""What a training of another library is given, and what such trainings have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from anynet_dist.bench.peer_networks import MissingPeerError, peer_network
from anynet_dist.config.schema import OptimConfig
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.models.anynet import build_anynet
from anynet_dist.system.ranges import Precision


@dataclass(frozen=True, kw_only=True)
class PeerSetting:
    """The same images, network, batch and optimizer as ours."""

    model: dict[str, Any]
    """Arguments of `build_anynet`, with the number of classes."""
    data: str
    """A .beton file or an image folder."""
    batch: int
    resolution: int
    augment: Augmentation
    """Of which peers do random resized crop and flip."""
    normalisation: Normalisation
    optim: OptimConfig
    precision: Precision
    workers: int
    folder: str
    """Where a library may write."""
    channels_last: bool = False
    library_defaults: bool = False
    """What the library does to images when it is not told otherwise, in place of `augment`."""
    cpu: bool = False

    @property
    def device(self) -> torch.device:
        """The GPU where there is one and it is wanted."""
        return torch.device("cuda" if torch.cuda.is_available() and not self.cpu else "cpu")

    @property
    def rate(self) -> float:
        """The learning rate, which does not matter for the speed."""
        return self.optim.lr or 0.01


class PILImages(TorchDataset[Any]):
    """The images of a data set as most people's have them: one at a time, by Pillow."""

    def __init__(self, path: str, transform: Callable[[Image.Image], Any] | None = None) -> None:
        data = open_dataset(path)
        self.samples, self.indices, self.labels = data.samples, data.indices, data.labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        stored = index if self.indices is None else int(self.indices[index])
        image: Any = Image.fromarray(self.samples.image(stored))
        return (self.transform(image) if self.transform else image), int(self.labels[index])


def pil_loader(setting: PeerSetting) -> DataLoader[Any]:
    """torchvision's transforms in a DataLoader's processes."""
    from torchvision import transforms

    side, style = setting.resolution, setting.augment
    steps: list[Any] = [transforms.Resize((side, side))]
    if style.random_resized_crop:
        steps = [transforms.RandomResizedCrop(side, scale=style.crop_scale, ratio=style.crop_aspect)]
    steps += [transforms.RandomHorizontalFlip()] if style.flip else []
    steps += [
        transforms.ToTensor(),
        transforms.Normalize(setting.normalisation.mean, setting.normalisation.std),
    ]
    return DataLoader(
        PILImages(setting.data, transforms.Compose(steps)),
        batch_size=setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        pin_memory=setting.device.type == "cuda",
    )


def same_network(setting: PeerSetting, library: str | None = None) -> nn.Module:
    """The library's own network where it has that of the setting, else ours; on the device."""
    network: nn.Module
    try:
        if library is None:
            raise MissingPeerError
        network = peer_network(library, setting.model.get("preset"), setting.model["num_classes"])
    except MissingPeerError:
        network = build_anynet(**setting.model)
    network.to(setting.device)
    return network.to(memory_format=torch.channels_last) if setting.channels_last else network


def autocast(setting: PeerSetting) -> torch.autocast:
    """Mixed precision where the setting asks for it."""
    return torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.precision == "bf16")
