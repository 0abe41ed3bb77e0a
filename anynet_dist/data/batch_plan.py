"""How a global batch is divided over processes and accumulated steps."""

from __future__ import annotations

from dataclasses import dataclass

from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """`global_batch` = `device_batch` x `accumulation` x `world_size`; raises UserError where it is not."""

    global_batch: int
    """Images of an optimizer step, over all processes."""
    world_size: int = 1
    accumulation: int = 1
    """Micro-batches whose gradients make up a step of one process."""
    drop_last: bool = True
    """Leave out the samples of an epoch that do not fill a global batch."""

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.accumulation < 1:
            raise UserError("train.global_batch: the global batch and the accumulation must be at least 1")
        if self.global_batch % self.parts:
            _refuse(self.global_batch, self.world_size, self.accumulation)

    @property
    def parts(self) -> int:
        """Micro-batches of a global batch, over all processes."""
        return self.world_size * self.accumulation

    @property
    def device_batch(self) -> int:
        """Images at a time on one device."""
        return self.global_batch // self.parts

    def loss_weight(self, count: int, images_left: int) -> float:
        """The weight in the gradient of the mean loss over a micro-batch of `count` images.

        Gradients are averaged over devices and accumulated steps, as if all micro-batches were of one size.
        With this weight that is the average over the images, also in the last global batch of an epoch, which
        has no more than the `images_left`.
        """
        return count * self.parts / min(self.global_batch, images_left)

    def __str__(self) -> str:
        return (
            f"{self.global_batch} images per step = {self.device_batch} x {self.world_size} device(s)"
            f" x {self.accumulation} accumulated"
        )


def plan_batches(
    global_batch: int, world_size: int, max_device_batch: int | None = None, drop_last: bool = True
) -> BatchPlan:
    """The plan with the fewest accumulated steps whose device batch is at most `max_device_batch`.

    Raises UserError when `global_batch` cannot be divided evenly, with the nearest one that can.
    """
    per_device = BatchPlan(global_batch=global_batch, world_size=world_size).device_batch
    limit = min(max_device_batch or per_device, per_device)
    device_batch = next(size for size in range(limit, 0, -1) if per_device % size == 0)
    return BatchPlan(
        global_batch=global_batch,
        world_size=world_size,
        accumulation=per_device // device_batch,
        drop_last=drop_last,
    )


def _refuse(global_batch: int, world_size: int, accumulation: int) -> None:
    parts = world_size * accumulation
    lower = global_batch // parts * parts
    nearest = " or ".join(str(batch) for batch in (lower, lower + parts) if batch)
    steps = f" with {accumulation} accumulated steps each" if accumulation > 1 else ""
    raise UserError(
        f"train.global_batch: {global_batch} images cannot be divided evenly among {world_size} devices"
        f"{steps}; set it to {nearest}, or change the number of devices"
    )
