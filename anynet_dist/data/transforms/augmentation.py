"""The random changes that a training image can undergo, and the ranges of their options.

The config takes its options from here; without torch, so that it loads quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.ranges import (
    Count,
    Hue,
    Level,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveFraction,
)

FlipMode = Literal["random", "alternate"]
TranslatePadding = Literal["constant", "reflect"]
AutoAugment = Literal["trivialaugment", "randaugment"]
TimmRandAugment = Annotated[
    str,
    Field(
        pattern=r"^timm:rand(-(m|n|mmax)[0-9]+|-(p|mstd)[0-9]+(\.[0-9]+)?|-inc[01])*$",
        description="a RandAugment of timm such as timm:rand-m7-mstd0.5-inc1",
    ),
]
RandAugmentMagnitude = Annotated[int, Field(ge=0, le=30)]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images, each a function of (seed, epoch, sample). Raises UserError for
    options out of range.

    They happen in this order: crop or shift, flip, torchvision's policies, cutout, lighting.
    """

    flip: bool = False
    """Mirror half of the images left to right."""
    flip_mode: FlipMode = "random"
    """`random` draws anew in each epoch; `alternate` mirrors each image every other epoch."""
    translate: NonNegativeInt = 0
    """Shift by up to this many pixels in both directions."""
    translate_padding: TranslatePadding = "constant"
    """What a shift brings into view: the mean colour, or the image mirrored at its edge."""
    cutout: NonNegativeInt = 0
    """Side in pixels of a square painted with the mean colour."""
    random_resized_crop: bool = False
    """Cut a random rectangle and resize it to data.train_res (Inception-style)."""
    crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.08, 1.0)
    """Area of that rectangle as a fraction of the image, smallest and largest."""
    crop_aspect: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Aspect ratio of that rectangle, smallest and largest."""
    color_jitter: tuple[NonNegative, NonNegative, NonNegative, Hue] = (0.0, 0.0, 0.0, 0.0)
    """How far brightness, contrast, saturation and hue may change; not with the ffcv loader."""
    auto_augment: AutoAugment | TimmRandAugment | None = None
    """A random policy of colour and geometry: `trivialaugment`, `randaugment`, or timm's RandAugment as timm
    writes it, such as timm:rand-m7-mstd0.5-inc1; not with the ffcv loader."""
    randaugment_ops: Count = 2
    """Operations that RandAugment applies to an image."""
    randaugment_magnitude: RandAugmentMagnitude = 9
    """How strong they are."""
    random_erasing: Level = 0.0
    """Probability of painting a random rectangle with the mean colour; not with the ffcv loader."""
    lighting: NonNegative = 0.0
    """AlexNet's noise on the colours: its standard deviation along the principal components of ImageNet's
    colours; 0.1 in pycls' recipes."""
    repeats: Count = 1
    """Differently augmented copies of an image in one global batch (repeated augmentation)."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError for an option that is out of range."""
        for name, (hint, adapter) in _types().items():
            value = getattr(self, name)
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                raise _refusal(name, value, hint, error) from None
        if self.timm_policy and find_spec("timm") is None:
            raise UserError(f"auto_augment: '{self.auto_augment}' needs timm: pip install timm")
        for name in self.reversed_ranges():
            raise UserError(f"{name}: the smallest comes first, not {getattr(self, name)}")

    def reversed_ranges(self) -> list[str]:
        """The names of the ranges whose first number is larger than the second."""
        ranges = {"crop_scale": self.crop_scale, "crop_aspect": self.crop_aspect}
        return [name for name, (smallest, largest) in ranges.items() if smallest > largest]

    @property
    def timm_policy(self) -> str | None:
        """What timm calls its RandAugment, where that is asked for."""
        library, _, policy = (self.auto_augment or "").partition(":")
        return policy if library == "timm" else None

    @property
    def needs_torchvision(self) -> tuple[str, ...]:
        """Names of what is asked for that only torchvision's transforms, or timm's, can do; FFCV cannot."""
        asked = {
            "color_jitter": any(self.color_jitter),
            "auto_augment": self.auto_augment is not None,
            "random_erasing": self.random_erasing > 0,
        }
        return tuple(name for name, wanted in asked.items() if wanted)


@cache
def _types() -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    """The type of each option, and what checks it."""
    hints = get_type_hints(Augmentation, include_extras=True)
    return {name: (hint, TypeAdapter(hint)) for name, hint in hints.items()}


def _refusal(name: str, value: Any, hint: Any, error: ValidationError) -> UserError:
    problem = error.errors(include_url=False)[0]
    if isinstance(value, str) and value.startswith("timm:"):
        return UserError(f"{name}: timm's RandAugment is written timm:rand-m7-mstd0.5-inc1, not {value}")
    if problem["type"] == "literal_error":
        kinds = (kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal)
        return unknown_name(name, value, get_args(next(kinds)))
    message = problem["msg"]
    return UserError(f"{name}: {message[0].lower()}{message[1:]}, not {value}")
