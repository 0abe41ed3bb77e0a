"""A file of as many samples as ImageNet has, each tiny: what the number of samples alone costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anynet_dist.data.beton import format as fmt
from anynet_dist.data.beton.format import read_table
from anynet_dist.data.beton.sidecar import checksums_path, describe, sidecar_path
from anynet_dist.data.beton.writer import write_tables
from anynet_dist.system.files import write_json
from tests.conftest import PATIENCE

SIDE, STRIDE = 4, 64  # images of 48 bytes, 64 apart, so that none lies across a page's end
PAGE = 2**23


def write_large(path: Path, num_samples: int) -> None:
    """Raw images of 4x4 pixels, all of value (sample % 251), of 1,000 classes."""
    rows, table = np.zeros(num_samples, fmt.SAMPLE), np.zeros(num_samples, fmt.ALLOCATION)
    first = -(-(fmt.METADATA_START + rows.nbytes) // STRIDE) * STRIDE
    rows["image"]["mode"], rows["image"]["height"], rows["image"]["width"] = fmt.RAW, SIDE, SIDE
    rows["image"]["start"] = table["start"] = first + STRIDE * np.arange(num_samples)
    rows["label"] = np.arange(num_samples) % 1000
    table["sample"], table["size"] = np.arange(num_samples), 3 * SIDE**2
    values = (np.arange(num_samples) % 251).astype(np.uint8)
    with open(path, "wb") as file:
        file.seek(first)
        file.write(np.repeat(values, STRIDE).tobytes())
        write_tables(file, first + STRIDE * num_samples, PAGE, rows, table)
    checksums_path(path).write_bytes(bytes(4 * num_samples))
    histogram = np.tile(np.bincount(values, minlength=256) * SIDE**2, (3, 1))
    classes = tuple(f"c{number:03}" for number in range(1000))
    stored: dict[str, Any] = {"write_mode": "raw", "max_resolution": None, "quality": 90, "seed": 0}
    stored |= {"compress_probability": 0.5, "ffcv_version": None}
    sidecar = describe(
        read_table(path),
        classes,
        histogram,
        checksums_path(path),
        source="x",
        split="train",
        **stored,
    )
    write_json(sidecar_path(path), sidecar.model_dump(mode="json"))


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A .beton file of 1,280,000 samples, 147 MB; removed afterwards."""
    if shutil.disk_usage(tmp_path).free < 2**30:
        pytest.skip("less than 1 GiB free: no room for a large file")
    write_large(tmp_path / "large.beton", 1_280_000)
    yield tmp_path / "large.beton"
    for file in tmp_path.iterdir():
        file.unlink()


# Each stage's time and growth of resident memory, in a process of its own: imports and compiling not counted.
MEASURE = """
import json, sys, time
from pathlib import Path
from typing import Any
import numpy as np, psutil, torch
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.transforms.normalisation import Normalisation

def loader(data):
    normalisation, placement = Normalisation((0.5,) * 3, (0.5,) * 3), Placement(workers=1)
    return train_loader(data, 64, normalisation=normalisation, placement=placement, loader=sys.argv[3])

def measured(work):
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    result = work()
    megabytes = (psutil.Process().memory_info().rss - before) / 1e6
    return result, {"seconds": round(time.perf_counter() - start, 2), "megabytes": round(megabytes, 1)}

small = loader(open_dataset(Path(sys.argv[2])))
next(iter(small))
small.close()
data, opened = measured(lambda: open_dataset(Path(sys.argv[1])))
batches, made = measured(lambda: loader(data))
(images, labels), first = measured(lambda: next(iter(batches)))
values = images * 0.5 + 0.5
assert bool((values == values[:, :1, :1, :1]).all())
found = (values[:, 0, 0, 0] * 255).round().long()
batches.close()
stages = {"open": opened, "loader": made, "first_batch": first}
print(json.dumps({**stages, "pixels": found.tolist(), "labels": labels.tolist()}))
"""


def measure(large: Path, small: Path, loader: str) -> dict[str, dict[str, float]]:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large), str(small), loader],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    found = json.loads(result.stdout.splitlines()[-1])
    # sample s has pixels s % 251 and labels s % 1000, so one sample in 251,000 has a given pair
    assert len(found["labels"]) == 64
    assert len(set(zip(found["pixels"], found["labels"], strict=True))) > 60
    print({stage: found[stage] for stage in ("open", "loader", "first_batch")})
    return {stage: found[stage] for stage in ("open", "loader", "first_batch")}


@pytest.mark.slow
def test_a_million_samples_take_little_memory_to_open(large: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    write_large(tmp_path / "small.beton", 1000)
    found = measure(large, tmp_path / "small.beton", "ffcv")
    assert sum(stage["megabytes"] for stage in found.values()) < 300
