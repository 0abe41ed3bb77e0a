"""Verify every image of a .beton file."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.sidecar import Sidecar, companions, open_beton
from anynet_dist.data.samples import BetonSamples
from anynet_dist.data.worker_pool import map_ranges
from anynet_dist.data.workers import usable_cores
from anynet_dist.system.files import sha256_of
from anynet_dist.system.progress_bar import ProgressBar

logger = logging.getLogger(__name__)


def verify_beton(path: Path) -> Sidecar:
    """Check the tables and the checksum of the whole file; returns its sidecar, raises BetonError."""
    _, sidecar = open_beton(path)
    if sha256_of(path) != sidecar.sha256:
        raise BetonError(
            f"{path}: its checksum is not the one in its sidecar: the file changed; 'anynet data verify "
            f"--deep' says which images; {sidecar.remedy}"
        )
    return sidecar


def verify_deep(path: Path, workers: int | None = None) -> Sidecar:
    """Also decode every image and compare its checksum; raises BetonError that names every damaged one."""
    table, sidecar = open_beton(path)
    inspector = _Inspector(BetonSamples(table), _read_checksums(path, sidecar), sidecar.classes)
    damaged: list[str] = []
    with ProgressBar(f"{path.name}, verify", len(table), unit="images") as bar:
        for count, found in map_ranges(inspector, len(table), workers or usable_cores()[0]):
            damaged += found
            bar.advance(count)
    if damaged:
        raise BetonError(
            f"{path}: {len(damaged)} of {len(table)} images are damaged:\n  "
            + "\n  ".join(damaged)
            + f"\n{sidecar.remedy}"
        )
    return verify_beton(path)


@dataclass(frozen=True)
class _Inspector:
    """Says of samples first .. last-1 how many they are and which are damaged."""

    samples: BetonSamples
    checksums: NDArray[np.uint32] | None
    classes: tuple[str, ...]

    def __call__(self, first: int, last: int) -> tuple[int, list[str]]:
        found = ((index, self._fault(index)) for index in range(first, last))
        return last - first, [
            f"{self.samples.name(index)} (class {self.classes[self.samples.labels[index]]}): {fault}"
            for index, fault in found
            if fault
        ]

    def _fault(self, index: int) -> str | None:
        try:
            self.samples.image(index)
        except BetonError as error:
            return str(error).removeprefix(f"{self.samples.name(index)}: ")
        if self.checksums is not None and zlib.crc32(self.samples.stored(index)) != self.checksums[index]:
            return "its bytes changed"
        return None


def _read_checksums(path: Path, sidecar: Sidecar) -> NDArray[np.uint32] | None:
    _, file = companions(path)
    if sidecar.checksums_sha256 is None:
        logger.warning("%s: built without checksums of single images: they can only be decoded", path)
        return None
    if not file.is_file() or sha256_of(file) != sidecar.checksums_sha256:
        raise BetonError(f"{file}: is missing or changed; {path.name}: {sidecar.remedy}")
    return np.fromfile(file, "<u4")
