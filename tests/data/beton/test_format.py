"""Files that FFCV would crash on, hang on, or read wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anynet_dist.data.beton import format as fmt
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import BetonError, read_table
from anynet_dist.data.beton.sidecar import open_beton
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.samples import ArraySamples, BetonSamples

TABLE_BYTES = 10 * fmt.ALLOCATION.itemsize


def test_a_whole_file_is_read_as_it_was_written(tiny_beton: Path, tiny: ArraySamples) -> None:
    table = read_table(tiny_beton)
    assert table.constant_shape == (8, 8)
    assert np.array_equal(table.labels, tiny.labels)
    assert all(np.array_equal(BetonSamples(table).image(i), tiny.image(i)) for i in range(10))


@pytest.mark.parametrize(
    "cut",
    {
        "the last entry of the table": lambda size: size - 24,
        "half of the table": lambda size: size - TABLE_BYTES // 2,
        "the whole table": lambda size: size - TABLE_BYTES,
        "some data": lambda size: size - TABLE_BYTES - 100,
        "half of the file": lambda size: size // 2,
        "metadata": lambda size: fmt.METADATA_START + 3 * fmt.SAMPLE.itemsize + 5,
        "descriptors": lambda size: fmt.METADATA_START - 5,
        "header": lambda size: 10,
        "everything": lambda size: 0,
        "one byte": lambda size: size - 1,
    }.items(),
    ids=lambda item: f"without {item[0]}",
)
def test_a_truncated_file_is_refused(tiny_beton: Path, cut: tuple[str, Callable[[int], int]]) -> None:
    data = tiny_beton.read_bytes()
    tiny_beton.write_bytes(data[: cut[1](len(data))])
    with pytest.raises(BetonError, match=r"tiny\.beton"):
        read_table(tiny_beton)


def test_a_file_whose_writer_was_stopped_is_refused(tiny_beton: Path) -> None:
    change_header(tiny_beton, table_start=0)
    with pytest.raises(BetonError, match="writer was stopped"):
        read_table(tiny_beton)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG" + bytes(10_000), np.random.default_rng(0).bytes(50_000)]
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "foreign.beton").write_bytes(content)
    with pytest.raises(BetonError, match=r"foreign\.beton"):
        read_table(tmp_path / "foreign.beton")


@pytest.mark.parametrize(
    "fields",
    [{"num_samples": 0}, {"num_samples": 2**60}, {"page_size": 0}, {"page_size": 3}, {"num_fields": 3}],
)
def test_an_impossible_header_is_refused(tiny_beton: Path, fields: dict[str, int]) -> None:
    change_header(tiny_beton, **fields)
    with pytest.raises(BetonError):
        read_table(tiny_beton)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("start", 0),
        ("start", 2**63),
        ("height", 0),
        ("height", 9),
        ("width", 65_535),
        ("mode", 7),
        ("label", -1),
    ],
)
def test_impossible_metadata_is_refused(tiny_beton: Path, column: str, value: int) -> None:
    data = bytearray(tiny_beton.read_bytes())
    rows = np.frombuffer(data, fmt.SAMPLE, 10, fmt.METADATA_START)
    (rows if column == "label" else rows["image"])[column][4] = value
    tiny_beton.write_bytes(data)
    with pytest.raises(BetonError):
        read_table(tiny_beton)


@pytest.mark.parametrize(
    ("column", "value"), [("sample", 5), ("start", 2**64 - 1), ("size", 2**63), ("size", 0)]
)
def test_an_impossible_allocation_is_refused(tiny_beton: Path, column: str, value: int) -> None:
    data = bytearray(tiny_beton.read_bytes())
    np.frombuffer(data, fmt.ALLOCATION, 10, len(data) - TABLE_BYTES)[column][4] = value
    tiny_beton.write_bytes(data)
    with pytest.raises(BetonError):
        read_table(tiny_beton)


def test_random_changes_to_header_and_tables_are_all_refused(tiny: ArraySamples, tmp_path: Path) -> None:
    path = tmp_path / "jpg.beton"
    build_beton(tiny, path, classes=("even", "odd"), options=WriteOptions(write_mode="jpg"), workers=1)
    whole = path.read_bytes()
    tables = [*range(fmt.METADATA_START + 240), *range(len(whole) - TABLE_BYTES, len(whole))]
    generator = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        data[generator.choice(tables)] ^= 1 << int(generator.integers(8))
        path.write_bytes(data)
        with pytest.raises(BetonError):
            open_beton(path)


def change_header(path: Path, **fields: int) -> None:
    data = bytearray(path.read_bytes())
    header = np.frombuffer(data, fmt.HEADER, 1)
    for name, value in fields.items():
        header[name][0] = value
    path.write_bytes(data)
