"""Ways to store a large data set, by name. What each costs on a machine, `plan` measures."""

from __future__ import annotations

from dataclasses import dataclass

from anynet_dist.data.beton.writer import WriteOptions


@dataclass(frozen=True)
class Profile:
    """A named way to store images."""

    options: WriteOptions
    about: str


PROFILES = {
    "raw256": Profile(
        WriteOptions(write_mode="raw", max_resolution=256),
        "pixels, longer side 256: least work for the CPU, and the least detail for crops of 224",
    ),
    "mix400": Profile(
        WriteOptions(write_mode="proportion", max_resolution=400, compress_probability=0.1),
        "longer side 400, a tenth as JPEG: less work for the CPU than mix500, at less detail",
    ),
    "mix500": Profile(
        WriteOptions(write_mode="proportion", max_resolution=500, compress_probability=0.5),
        "longer side 500, half as JPEG: a middle way between disk and CPU",
    ),
    "jpeg500": Profile(
        WriteOptions(write_mode="jpg", max_resolution=500),
        "longer side 500, all as JPEG: the smallest file, the most work for the CPU",
    ),
}
