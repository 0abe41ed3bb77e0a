"""Loaders that feed a GPU. Skipped, saying so, where there is none."""

from pathlib import Path

import pytest
import torch

from anynet_dist.data.beton.build import build_source
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.loaders.names import LoaderName
from anynet_dist.data.sources import load_source
from anynet_dist.data.transforms.augmentation import Augmentation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("loader", ["ffcv", "torch", "device"])
def test_a_busy_gpu_gets_the_batches_that_the_cpu_gets(tmp_path: Path, loader: LoaderName) -> None:
    """Copies that run beside other work must not be used early, nor their memory be filled again early."""
    if loader == "ffcv":
        pytest.importorskip("ffcv")
    build_source(load_source("digits"), tmp_path)
    file, augment = tmp_path / "train.beton", Augmentation(translate=2, cutout=3)
    here = train_loader(file, 64, augment, loader="torch", placement=Placement(workers=0))
    device = torch.device("cuda")
    there = train_loader(file, 64, augment, loader=loader, placement=Placement(device=device, workers=2))
    busy = torch.randn(4096, 4096, device=device)
    for epoch in range(3):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        received = []
        for images, labels in there:
            busy = torch.tanh(busy @ busy)  # the GPU is far behind the loader
            received.append((images.clone(), labels.clone()))
        for (images, labels), (expected, expected_labels) in zip(received, here, strict=True):
            torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-5)
            assert labels.tolist() == expected_labels.tolist()
    here.close()
    there.close()
