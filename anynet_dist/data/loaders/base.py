"""What every loader offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, get_args

from torch import Tensor

LoaderName = Literal["auto", "ffcv", "torch", "device"]
LOADERS = get_args(LoaderName)
EvalResize = Literal["auto", "bilinear", "area"]


class Loader(Protocol):
    """Yields (images float32 normalised (B, 3, R, R), labels int64 (B,)), both on the device."""

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`; it starts at batch `first_batch` at once."""

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high (progressive resizing).

        Raises UserError where a shift or a hole would be larger than that.
        """

    def close(self) -> None:
        """End the loader's threads and processes."""
