"""Augmentation as numbers: what happens to a sample is a function of (seed, epoch, sample index) alone.

The numbers of a batch are computed here, once, for every loader; a loader only carries them out. So the
FFCV and the torch loader crop, shift and flip the same samples alike, for any number of workers and
processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.order import Indices
from anynet_dist.data.transforms.augmentation import Augmentation, FlipMode
from anynet_dist.system.errors import UserError

# The columns of sample parameters: the box cut from the source image, the shift and flip of the
# result, the erased hole, a place where a loader marks the sample as unreadable, and whether what a shift
# brings into view mirrors the image.
TOP, LEFT, HEIGHT, WIDTH, SHIFT_Y, SHIFT_X, FLIP, HOLE_TOP, HOLE_LEFT, HOLE_BOTTOM, HOLE_RIGHT, FAILED = (
    range(12)
)
REFLECT = 12
NUM_COLUMNS = 13

Resize = Literal["bilinear", "area"]

_CROP_ATTEMPTS = 10
_DRAWS = 7
_CROP_DRAWS = _DRAWS + 2 * _CROP_ATTEMPTS
_U_FLIP, _U_SHIFT, _U_HOLE, _U_PLACE, _U_CROP = 0, slice(1, 3), slice(3, 5), slice(5, 7), slice(7, None)

SampleParams = NDArray[np.int64]
"""The parameters of samples, one row per sample, with the columns above."""


@dataclass(frozen=True, kw_only=True)
class SampleTransform:
    """From a stored image of any size to `resolution` x `resolution` pixels: augmented when training,
    cropped when not."""

    resolution: int
    augment: Augmentation | None = None
    """None for evaluation."""
    crop_ratio: float | None = None
    """Evaluation: side of the centre crop as a fraction of the shorter side; None keeps the whole (square)
    image."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour (RGB, 0..255) of what a shift brings into view and of cutout's hole."""
    seed: int = 0
    resize: Resize = "bilinear"
    """How the box becomes `resolution` pixels: bilinear with antialiasing as torchvision does it, or the mean
    of the areas as FFCV does it (and always does, whatever is said here)."""

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise UserError(f"the resolution must be at least 1 pixel, not {self.resolution}")
        if self.crop_ratio is not None and not 0 < self.crop_ratio <= 1:
            raise UserError(f"the centre-crop ratio must be in (0, 1], not {self.crop_ratio}")
        if self.augment is not None:
            self._check_fits(self.augment)

    def _check_fits(self, augment: Augmentation) -> None:
        for name in ("translate", "cutout"):
            pixels = getattr(augment, name)
            if pixels >= self.resolution:
                raise UserError(
                    f"{name} of {pixels} pixels leaves nothing of an image of {self.resolution}; "
                    f"choose a smaller {name}"
                )

    @property
    def needs_square(self) -> bool:
        """Whether the whole image is used as it is, so that images must be square and all alike."""
        return self.crop_ratio is None and not (self.augment and self.augment.random_resized_crop)

    def params(self, epoch: int, keys: Indices, heights: Indices, widths: Indices) -> SampleParams:
        """What to do with each sample, shape (N, NUM_COLUMNS), from its key (see `order.SampleKeys`) and its
        size in pixels (each (N,))."""
        params = np.zeros((len(keys), NUM_COLUMNS), np.int64)
        if self.augment is None:
            params[:, TOP : WIDTH + 1] = _centre_boxes(heights, widths, self.crop_ratio)
            return params
        count = _CROP_DRAWS if self.augment.random_resized_crop else _DRAWS
        draws = uniform_draws(self.seed, epoch, keys, count)
        if self.augment.flip:
            params[:, FLIP] = self._flips(epoch, keys, draws, self.augment.flip_mode)
        if self.augment.random_resized_crop:
            params[:, TOP : WIDTH + 1] = _random_boxes(draws, heights, widths, self.augment)
        else:
            params[:, TOP : WIDTH + 1] = _centre_boxes(heights, widths, None)
        self._shift_and_cut(params, draws, self.augment)
        return params

    def _flips(
        self, epoch: int, keys: Indices, draws: NDArray[np.float64], mode: FlipMode
    ) -> NDArray[np.bool_]:
        if mode == "random":
            return draws[:, _U_FLIP] < 0.5
        first = uniform_draws(self.seed, 0, keys, 1)[:, _U_FLIP] < 0.5
        return first ^ bool(epoch % 2)

    def _shift_and_cut(self, params: SampleParams, draws: NDArray[np.float64], augment: Augmentation) -> None:
        if augment.translate:
            span = 2 * augment.translate + 1
            params[:, SHIFT_Y : SHIFT_X + 1] = np.floor(draws[:, _U_SHIFT] * span) - augment.translate
            params[:, REFLECT] = augment.translate_padding == "reflect"
        if augment.cutout:
            places = self.resolution - augment.cutout + 1
            params[:, HOLE_TOP : HOLE_LEFT + 1] = np.floor(draws[:, _U_HOLE] * places)
            params[:, HOLE_BOTTOM : HOLE_RIGHT + 1] = params[:, HOLE_TOP : HOLE_LEFT + 1] + augment.cutout


def uniform_draws(seed: int, epoch: int, keys: Indices, count: int, stream: int = 1) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape (N, count): each a hash of (seed, epoch, sample index, column).

    Those of another `stream` are independent. A counter-based generator (the idea of Salmon et al. 2011) with
    SplitMix64's mixing function (Steele et al. 2014).
    """
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    samples = _mix(keys.astype(np.uint64) ^ key)[:, None]
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.multiply(_mix(samples + steps) >> np.uint64(11), 2.0**-53, dtype=np.float64)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _centre_boxes(heights: Indices, widths: Indices, crop_ratio: float | None) -> SampleParams:
    """Boxes (top, left, height, width): the centred square of crop_ratio x the shorter side, or the whole
    image."""
    if crop_ratio is None:
        zeros = np.zeros_like(heights)
        return np.stack([zeros, zeros, heights, widths], axis=1)
    side = np.maximum(1, (crop_ratio * np.minimum(heights, widths)).astype(np.int64))
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def _random_boxes(
    draws: NDArray[np.float64], heights: Indices, widths: Indices, augment: Augmentation
) -> SampleParams:
    """Random boxes, as torchvision's RandomResizedCrop draws them: the first of ten attempts that fits,
    else central."""
    height, width = heights[:, None], widths[:, None]
    u_area, u_ratio = np.split(draws[:, _U_CROP], 2, axis=1)
    low, high = augment.crop_scale
    area = height * width * (low + (high - low) * u_area)
    log_low, log_high = np.log(augment.crop_aspect)
    ratio = np.exp(log_low + (log_high - log_low) * u_ratio)
    box_widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    box_heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= width) & (box_heights > 0) & (box_heights <= height)
    rows, first = np.arange(len(draws)), fits.argmax(axis=1)
    fallback_height, fallback_width = _fallback_size(heights, widths, augment.crop_aspect)
    any_fits = fits.any(axis=1)
    box_height = np.where(any_fits, box_heights[rows, first], fallback_height)
    box_width = np.where(any_fits, box_widths[rows, first], fallback_width)
    u_top, u_left = np.where(any_fits[:, None], draws[:, _U_PLACE], 0.5).T
    top = np.floor(u_top * (heights - box_height + 1)).astype(np.int64)
    left = np.floor(u_left * (widths - box_width + 1)).astype(np.int64)
    return np.stack([top, left, box_height, box_width], axis=1)


def _fallback_size(heights: Indices, widths: Indices, ratios: tuple[float, float]) -> tuple[Indices, Indices]:
    """The largest size within the image whose width / height lies in the range."""
    box_heights = np.minimum(heights, np.rint(widths / ratios[0]).astype(np.int64))
    box_widths = np.minimum(widths, np.rint(heights * ratios[1]).astype(np.int64))
    return np.maximum(1, box_heights), np.maximum(1, box_widths)
