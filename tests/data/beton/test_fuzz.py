"""Random damage to a small .beton file, met in a process of its own: no crash, no hang, nothing unnoticed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import JPEG, RAW, read_table
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.samples import ArraySamples
from tests.conftest import PATIENCE

CASES_A_PROCESS = 1000

# argv: file, seed, number of cases, folder, loader or 'none'. A case cuts the end off or flips up to 8 bytes,
# anywhere or in the images alone; then it opens the file, verifies it deeply and reads it through the loader,
# if one is named (every sixth case). Prints how the cases ended.
FUZZ = """
import json, sys
from collections import Counter
from pathlib import Path
import numpy as np
from anynet_dist.data.beton import format as fmt
from anynet_dist.data.beton.sidecar import checksums_path, open_beton, sidecar_path
from anynet_dist.data.beton.verify import verify_beton
from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.verify import verify_deep

source, seed, count, folder = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
whole = source.read_bytes()
path = folder / source.name
for beside in (sidecar_path, checksums_path):
    beside(path).write_bytes(beside(source).read_bytes())
table = fmt.read_table(source)
tables = np.ones(len(whole), bool)
tables[fmt.METADATA_START + len(table) * fmt.SAMPLE.itemsize : -len(table) * fmt.ALLOCATION.itemsize] = False
image_of = np.full(len(whole), -1)
for index in range(len(table)):
    image_of[table.starts[index] : table.starts[index] + table.sizes[index]] = index
generator, ends = np.random.default_rng([seed, count]), Counter()

def outcome(work):
    try:
        work()
    except BetonError as error:
        return str(error)
    return None

def read():
    import torch
    from anynet_dist.data.dataset import open_dataset
    from anynet_dist.data.loaders.base import Placement
    from anynet_dist.data.loaders.factory import train_loader
    from anynet_dist.data.transforms.normalisation import Normalisation
    data = open_dataset(path)
    normalisation, placement = Normalisation((0.5,) * 3, (0.5,) * 3), Placement(workers=1)
    loader = train_loader(
        data, 5, resolution=8, normalisation=normalisation, placement=placement, loader=sys.argv[5]
    )
    try:
        assert sum(len(labels) for _, labels in loader) == len(table)
    finally:
        loader.close()

for case in range(count):
    data = bytearray(whole)
    if generator.random() < 0.25:
        del data[generator.integers(len(whole)):]
        changed, cut = [], True
    else:
        anywhere = generator.random() < 0.5
        places = len(whole) if anywhere else np.flatnonzero(image_of >= 0)
        changed, cut = generator.choice(places, generator.integers(1, 9), replace=False), False
        for place in changed:
            data[place] ^= int(generator.integers(1, 256))
    path.write_bytes(data)
    opened = outcome(lambda: open_beton(path))
    if cut or tables[changed].any():
        assert opened, f"case {case}: a changed header or table was accepted"
        assert str(path) in opened
        ends["cut, refused" if cut else "header or table changed, refused"] += 1
        continue
    assert opened is None, f"case {case}: {opened}"
    assert outcome(lambda: verify_beton(path)), f"case {case}: no change found"
    said = outcome(lambda: verify_deep(path, workers=1))
    for image in {int(image) for image in image_of[changed]} - {-1}:
        assert f"sample {image} " in said, f"case {case}: sample {image} is not named"
    ends["image changed, sample named"] += 1
    if sys.argv[5] != "none" and case % 6 == 0:  # the slow part: a loader of its own each time
        ends["then read to the end" if outcome(read) is None else "then refused by the loader"] += 1
print(json.dumps(ends))
"""


def fuzz(folder: Path, cases: int, loader: str) -> Counter[str]:
    """Run the cases in batches, each a process of its own; a crash or a hang of one ends the test."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    samples = ArraySamples(images, generator.permutation(10) % 2)
    path = folder / "small.beton"
    options = WriteOptions(write_mode="proportion")  # some raw, some as JPEG
    build_beton(samples, path, classes=("even", "odd"), options=options, workers=1)
    assert set(read_table(path).modes) == {JPEG, RAW}
    (folder / "damaged").mkdir()
    ends: Counter[str] = Counter()
    for seed, first in enumerate(range(0, cases, CASES_A_PROCESS)):
        count = min(CASES_A_PROCESS, cases - first)
        arguments = [str(path), str(seed), str(count), str(folder / "damaged"), loader]
        result = subprocess.run(
            [sys.executable, "-c", FUZZ, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode == 0, f"batch {seed} ended with {result.returncode}:\n{result.stderr}"
        ends.update(json.loads(result.stdout.splitlines()[-1]))
    kinds = ("cut, refused", "header or table changed, refused", "image changed, sample named")
    assert sum(ends[kind] for kind in kinds) == cases
    assert all(ends[kind] > cases // 10 for kind in kinds)
    print(dict(ends))
    return ends


@pytest.mark.slow
def test_no_random_damage_goes_unnoticed(tmp_path: Path) -> None:
    fuzz(tmp_path, 200, "none")


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a hang ends its batch before
def test_no_random_damage_crashes_ffcv(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    ends = fuzz(tmp_path, 2000, "ffcv")
    assert ends["then refused by the loader"] > 0
