from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from anynet_dist.cli import main

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def trained(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs on the blobs, with its report."""
    folder = tmp_path_factory.mktemp("reported")
    assert main(["train", str(config(folder, blobs))]) == 0
    return folder / "run"


def config(folder: Path, blobs: Path, **options: Any) -> Path:
    """A config that trains a tiny network on the blobs, in fp32, into folder/run."""
    settings = {
        "run": {"name": "blobs", "dir": str(folder / "run")},
        "data": {
            "train": str(blobs / "train"),
            "val": str(blobs / "val"),
            "train_res": 16,
            "loader": "device",
        },
        "model": {
            "num_blocks_per_stage": [1, 2],
            "num_channels": [8, 8, 16],
            "strides": [1, 2],
            "stem": "conv3x3_s2",
        },
        "train": {"epochs": 2, "global_batch": 24, "precision": "fp32", "memory_format": "contiguous"},
        "optim": {"lr": 0.02},
        "schedule": {"warmup_epochs": 1},
    }
    path = folder / "blobs.yaml"
    path.write_text(yaml.safe_dump({**settings, **options}))
    return path
