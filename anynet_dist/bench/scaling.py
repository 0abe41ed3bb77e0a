"""What training on many GPUs asks of loaders, disks and networks: arithmetic on figures of one device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from anynet_dist.system.errors import UserError

BACKWARD_FRACTION = 2 / 3
"""Fraction of a step that is the backward pass, during which gradients travel: two forward passes."""
GRADIENT_BYTES = 4
BASE_BATCH = 256
"""The batch that a recipe's learning rate is commonly stated for (Goyal et al., 2017)."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The figures a calculation starts from; speeds are of one device, core or machine."""

    gpus: int
    gpus_per_node: int = 8
    images_per_second: float
    """Training speed of one GPU alone, with data that is at hand."""
    device_batch: int = 128
    parameters: int
    images: int = 1_281_167
    image_bytes: float
    """Mean size of an image in the file that the loader reads."""
    loader_per_core: float
    """Images/s that one core decodes and augments."""
    cores_per_node: int = 64
    cache_bytes: float
    """Memory of a machine that its page cache may fill."""
    disk_bytes_s: float
    """What one machine reads from its disk or the file system, when the others read too."""
    link_bytes_s: float
    """Bus bandwidth of an all-reduce among the GPUs of a machine."""
    network_bytes_s: float
    """What a machine sends to the others, all its network cards together."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise UserError(f"{name} must be more than 0, not {value}")
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            raise UserError(f"{self.gpus} GPUs do not fill machines of {self.gpus_per_node}")

    @property
    def nodes(self) -> int:
        """Machines."""
        return max(1, self.gpus // self.gpus_per_node)

    @property
    def gpus_here(self) -> int:
        """GPUs in use on each machine."""
        return min(self.gpus, self.gpus_per_node)


class Needs(NamedTuple):
    """What a cluster asks for, and how fast it comes out."""

    global_batch: int
    lr_factor: float
    """By how much the linear rule multiplies a learning rate stated for a batch of 256."""
    steps_per_epoch: int
    step_s: float
    """A step's time on one GPU alone."""
    loader_images_s: float
    """What each machine's loaders must deliver."""
    loader_cores: float
    """Cores for that, on each machine."""
    disk_bytes_s: float
    """What each machine reads beyond its page cache."""
    ring_bytes: float
    """What each GPU, and each machine's network, sends in a step: 2 (N - 1) / N x gradients."""
    all_reduce_s: float
    """Its time, on the slower of the links within and between machines."""
    exposed_s: float
    """The part of it that does not fit beside the backward pass."""
    images_s: float
    """Training speed of all GPUs, with the tightest of the limits."""
    epoch_s: float
    limits: dict[str, float]
    """For each part, the fraction of full speed that it could sustain; above 1 it is no limit."""

    @property
    def breaks_first(self) -> str:
        """The part with the least to spare."""
        return min(self.limits, key=lambda name: self.limits[name])


def needs_of(cluster: Cluster) -> Needs:
    """The calculation; docs/scaling.md explains each line."""
    speed, gpus = cluster.images_per_second, cluster.gpus
    step = cluster.device_batch / speed
    ring = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * cluster.parameters
    all_reduce = ring / cluster.link_bytes_s
    if cluster.nodes > 1:
        all_reduce = max(all_reduce, ring / cluster.network_bytes_s)
    exposed = max(0.0, all_reduce - BACKWARD_FRACTION * step)
    wanted = cluster.gpus_here * speed
    cached = min(1.0, cluster.cache_bytes / (cluster.images * cluster.image_bytes))
    disk = wanted * (1 - cached) * cluster.image_bytes
    limits = {
        "loaders": cluster.cores_per_node * cluster.loader_per_core / wanted,
        "disk": cluster.disk_bytes_s / disk if disk else float("inf"),
        "all-reduce": BACKWARD_FRACTION * step / all_reduce if all_reduce else float("inf"),
    }
    fed = min(1.0, limits["loaders"], limits["disk"])
    images_s = cluster.gpus * cluster.device_batch / max(step + exposed, step / fed)
    global_batch = cluster.gpus * cluster.device_batch
    return Needs(
        global_batch=global_batch,
        lr_factor=global_batch / BASE_BATCH,
        steps_per_epoch=cluster.images // global_batch,
        step_s=step,
        loader_images_s=wanted,
        loader_cores=wanted / cluster.loader_per_core,
        disk_bytes_s=disk,
        ring_bytes=ring,
        all_reduce_s=all_reduce,
        exposed_s=exposed,
        images_s=images_s,
        epoch_s=cluster.images / images_s,
        limits=limits,
    )


def needs_by_size(cluster: Cluster, sizes: list[int]) -> dict[int, Needs]:
    """The needs with each number of GPUs, all else being equal."""
    return {gpus: needs_of(replace(cluster, gpus=gpus)) for gpus in sizes}


def scaling_lines(found: dict[int, Needs]) -> list[tuple[str, list[str]]]:
    """The table's rows: what, and its value for each number of GPUs."""
    columns = list(found.values())

    def row(name: str, shown: list[str]) -> tuple[str, list[str]]:
        return name, shown

    return [
        row("global batch", [f"{needs.global_batch:,}" for needs in columns]),
        row("learning rate, linear rule from 256", [f"x {needs.lr_factor:g}" for needs in columns]),
        row("steps per epoch", [f"{needs.steps_per_epoch:,}" for needs in columns]),
        row("step on one GPU alone (ms)", [f"{1000 * needs.step_s:.1f}" for needs in columns]),
        row("loader images/s per machine", [f"{needs.loader_images_s:,.0f}" for needs in columns]),
        row("loader cores per machine", [f"{needs.loader_cores:.1f}" for needs in columns]),
        row("disk reads per machine (MB/s)", [f"{needs.disk_bytes_s / 1e6:,.0f}" for needs in columns]),
        row("sent per GPU and step (MB)", [f"{needs.ring_bytes / 1e6:.1f}" for needs in columns]),
        row("all-reduce (ms)", [f"{1000 * needs.all_reduce_s:.2f}" for needs in columns]),
        row("of it not hidden (ms)", [f"{1000 * needs.exposed_s:.2f}" for needs in columns]),
        row("images/s, all GPUs", [f"{needs.images_s:,.0f}" for needs in columns]),
        row("an epoch (s)", [f"{needs.epoch_s:.1f}" for needs in columns]),
        *(
            row(f"{part}: could sustain", [_times(needs.limits[part]) for needs in columns])
            for part in columns[0].limits
        ),
        row("breaks first", [needs.breaks_first for needs in columns]),
    ]


def _times(fraction: float) -> str:
    return "any" if fraction == float("inf") else f"{fraction:.2f}x"
