"""Pages of a .beton file are as small as its largest image allows: stock FFCV's memory grows with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import BetonTable, read_table
from anynet_dist.data.beton.writer import SMALLEST_PAGE, WriteOptions
from anynet_dist.data.samples import FolderSamples


def build(sides: list[int], path: Path, workers: int = 1, **options: Any) -> BetonTable:
    """Write grey images of the sides given, 3 side^2 bytes each."""
    folder = path.parent / "images" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    for number, side in enumerate(sides):
        grey = np.full((side, side, 3), number, np.uint8)
        Image.fromarray(grey).save(folder / f"{number:03d}.ppm")
    samples = FolderSamples(folder.parent, ["a"])
    build_beton(samples, path, classes=("a",), options=WriteOptions(**options), workers=workers)
    return read_table(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sides", "page"),
    [
        ([32] * 5, SMALLEST_PAGE),
        ([1100] * 40 + [1900] + [1100] * 40, 2 * SMALLEST_PAGE),
        ([64, 2500, 1700], 4 * SMALLEST_PAGE),
    ],
)
def test_pages_grow_to_the_largest_image_and_no_image_lies_across_an_end(
    sides: list[int], page: int, tmp_path: Path
) -> None:
    table = build(sides, tmp_path / "a.beton")
    assert table.page_size == page
    assert (table.starts // page == (table.starts + table.sizes - 1) // page).all()
    build(sides, tmp_path / "b.beton", workers=2)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_a_maximum_resolution_makes_pages_no_larger_than_the_images_need(tmp_path: Path) -> None:
    assert build([32] * 5, tmp_path / "a.beton", max_resolution=4000).page_size == SMALLEST_PAGE


@pytest.mark.slow
def test_stock_ffcv_reads_a_file_whose_pages_grew(tmp_path: Path) -> None:
    reader = pytest.importorskip("ffcv.reader")
    managers = pytest.importorskip("ffcv.memory_managers")
    sides = [64, 1900, 64, 64]
    build(sides, tmp_path / "a.beton")
    manager = managers.ProcessCacheManager(reader.Reader(str(tmp_path / "a.beton")))
    read = manager.compile_reader()
    context = manager.schedule_epoch(np.arange(4).reshape(2, 2))
    with context:
        pointers = manager.reader.metadata["f0"]["data_ptr"]
        for number in range(2):
            context.start_batch(number)
            for index in (2 * number, 2 * number + 1):
                found = read(pointers[index], context.state)
                assert found.size == 3 * sides[index] ** 2
                assert (found == index).all()
