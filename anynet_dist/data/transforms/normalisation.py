"""What pixels are divided by, decided in one place: also where a channel has no deviation to divide by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anynet_dist.system.errors import UserError

CHANNELS = ("red", "green", "blue")
CONSTANT = 1e-4
"""A measured deviation (in 0..1) below this, a fortieth of a grey level, is a constant channel's: what is
left are rounding errors and a few stray pixels."""
SMALLEST = 1e-12
"""Deviations below this are refused: they would make pixels infinite in float32."""


def constant_channels(std: Sequence[float]) -> list[str]:
    """The channels that are constant by their measured deviation."""
    return [name for name, value in zip(CHANNELS, std, strict=True) if value < CONSTANT]


def scale(std: tuple[float, float, float]) -> tuple[float, float, float]:
    """What to divide by: the measured deviation, but 1 where the channel is constant.

    Nothing is to be learnt from such a channel, and any other divisor would only enlarge rounding errors; it
    is what scikit-learn's StandardScaler does.
    """
    red, green, blue = (1.0 if value < CONSTANT else value for value in std)
    return red, green, blue


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises UserError where pixels cannot be normalised with these."""
    if not all(0 <= value <= 1 for value in mean) or not all(SMALLEST <= value < math.inf for value in std):
        raise UserError(
            f"each mean must lie in 0..1 and each std be at least {SMALLEST:g}, not {tuple(mean)} and"
            f" {tuple(std)}: set data.mean and data.std; a std of 1 leaves a constant channel unscaled"
        )


@dataclass(frozen=True)
class Normalisation:
    """From pixels in 0..1 to a network's input: (pixel - mean) / std. Raises UserError where it cannot be."""

    mean: Sequence[float]
    """Per channel (RGB), in 0..1."""
    std: Sequence[float]
    """As for the mean; 1 leaves a channel unscaled."""

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The mean as a pixel, 0..255."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
