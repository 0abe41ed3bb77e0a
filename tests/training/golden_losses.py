"""The losses of 20 steps of three small networks, which a change of numerics changes.

`python -m tests.training.golden_losses` adds those of the installed torch to golden_losses.json: after a new
version of torch, or a change that is meant to change them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from anynet_dist.config import load_config
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.training.trainer import Trainer

FILE = Path(__file__).with_suffix(".json")
STEPS = 20

RUNS: dict[str, dict[str, Any]] = {
    "ResNeXt, SGD, one cycle": {
        "model": {"block_type": "bottleneck", "bottleneck_ratio": 2, "group_width": 4},
        "optim": {"lr": 0.05},
        "schedule": {"name": "onecycle", "warmup_epochs": 2},
        "train": {"label_smoothing": 0.1, "clip_grad_norm": 1.0},
    },
    "RegNetY, AdamW, mixing, moving average": {
        "model": {"block_type": "bottleneck", "bottleneck_ratio": 1, "group_width": 8, "se_ratio": 0.25},
        "optim": {"name": "adamw", "lr": 0.002, "weight_decay": 0.05},
        "data": {"augment": {"mixup": 0.2, "cutmix": 1.0, "flip": True}},
        "ema": {"decay": 0.9},
    },
    "basic blocks, accumulation, dropout": {
        "model": {"block_type": "basic", "dropout": 0.2},
        "optim": {"lr": 0.02, "nesterov": False},
        "schedule": {"warmup_epochs": 1},
        "train": {"max_device_batch": 8},
        "data": {"augment": {"flip": True, "translate": 2}},
    },
}


def version() -> str:
    """Of torch, as golden_losses.json has it."""
    return ".".join(torch.__version__.split(".")[:2])


def losses(options: dict[str, Any], folder: Path) -> list[float]:
    """The training losses of 20 steps on random images with a colour for each of three classes."""
    generator = np.random.default_rng(0)
    for number in range(96):
        pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
        pixels[:, :, number % 3] += np.uint8(100)
        target = folder / "images" / f"class{number % 3}" / f"{number:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    small = {"num_blocks_per_stage": [1, 1], "num_channels": [8, 16, 32], "strides": [1, 2]}
    means = {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2], "train": str(folder / "images")}
    exact = {"precision": "fp32", "memory_format": "contiguous", "global_batch": 24}
    config = {
        **options,
        "run": {"dir": str(folder / "run"), "cpu": True},
        "model": {**small, "stem": "conv3x3_s1", **options["model"]},
        "data": {**means, "loader": "device", **options.get("data", {})},
        "train": {**exact, "epochs": 5, "max_steps": STEPS, "log_every": 1, **options.get("train", {})},
        "tracking": {"report": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    Trainer(load_config(folder / "config.yaml").config).fit()
    records = read_records(folder / "run" / "metrics.jsonl")
    return [record["train/loss"] for record in records if record.get("train/loss") is not None]


if __name__ == "__main__":
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[version()] = {}
    for name, options in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            known[version()][name] = [round(loss, 6) for loss in losses(options, Path(folder))]
    FILE.write_text(json.dumps(known, indent=1) + "\n")
