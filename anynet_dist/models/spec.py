"""The declarative description of a network, which builds it (anynet.py) and counts it (complexity.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class StemSpec:
    """The first layers, from the image to the first feature map."""

    type: str
    """Name of a registered stem."""
    width: int
    """Output channels."""
    width_in: int = 3
    """Channels of the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """A row of blocks of one kind and width; the first of them carries the stride."""

    block_type: str
    """Name of a registered block."""
    depth: int
    """Number of blocks (d)."""
    width: int
    """Output channels of every block (w)."""
    stride: int = 2
    """Stride of the first block."""
    bottleneck_ratio: float = 1.0
    """b: the 3x3 convolution has w / b channels; below 1 the bottleneck is inverted."""
    group_width: int | None = None
    """g: channels in one group of the 3x3 convolution; None is one group."""
    se_ratio: float = 0.0
    """Squeeze-excitation's channels as a fraction of the block's input width; 0 is none."""

    @property
    def options(self) -> dict[str, Any]:
        """What a block may ask for by name."""
        return {
            "bottleneck_ratio": self.bottleneck_ratio,
            "group_width": self.group_width,
            "se_ratio": self.se_ratio,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """The last layers, from the feature map to the network's output."""

    type: str
    """Name of a registered head."""
    num_classes: int
    """Outputs of a classifier."""
    dropout: float = 0.0
    """Fraction of features dropped before the classifier, in training."""

    @property
    def options(self) -> dict[str, Any]:
        """What a head may ask for by name."""
        return {"num_classes": self.num_classes, "dropout": self.dropout}


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec:
    """Stem, stages and head of one AnyNet, and how its weights start."""

    stem: StemSpec
    stages: tuple[StageSpec, ...]
    head: HeadSpec
    init: Literal["pycls", "torch"] = "pycls"
    """Initialisation: that of pycls, or what PyTorch's layers do by themselves."""
    zero_init_residual: bool = False
    """Start each residual block as the identity: the last batch norm's weight is 0."""
    blurpool: bool = False
    """Blur the input of convolutions that stride."""
