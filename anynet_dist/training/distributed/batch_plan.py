"""Splits the recipe's global batch over devices and accumulated steps."""

from __future__ import annotations

from dataclasses import dataclass

from anynet_dist.system.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """`global_batch` = `device_batch` x `accumulation` x `world_size`."""

    global_batch: int
    world_size: int
    accumulation: int

    @property
    def device_batch(self) -> int:
        """Images at a time on one device."""
        return self.global_batch // (self.world_size * self.accumulation)

    def loss_weight(self, count: int, images_left: int) -> float:
        """What the mean loss over a micro-batch of `count` images counts in the gradient.

        Gradients are averaged over devices and accumulated steps, as if all micro-batches were of one size.
        With this weight that is the average over the images, also in the last global batch of an epoch, which
        has no more than the `images_left`.
        """
        images = min(self.global_batch, images_left)
        return count * self.world_size * self.accumulation / images

    def __str__(self) -> str:
        return (
            f"{self.global_batch} images a step = {self.device_batch} x {self.world_size} device(s)"
            f" x {self.accumulation} accumulated"
        )


def plan_batches(global_batch: int, world_size: int, max_device_batch: int | None = None) -> BatchPlan:
    """The plan with the fewest accumulated steps whose device batch is at most `max_device_batch`.

    Raises UserError when `global_batch` cannot be shared out evenly, naming the nearest one that can.
    """
    if global_batch % world_size:
        lower = global_batch // world_size * world_size
        nearest = " or ".join(str(batch) for batch in (lower, lower + world_size) if batch)
        raise UserError(
            f"train.global_batch: {global_batch} images cannot be shared evenly by {world_size} devices;"
            f" set it to {nearest}, or change the number of devices"
        )
    per_device = global_batch // world_size
    limit = max_device_batch or per_device
    device_batch = next(size for size in range(min(limit, per_device), 0, -1) if per_device % size == 0)
    return BatchPlan(global_batch, world_size, per_device // device_batch)
