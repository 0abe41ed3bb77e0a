"""Heads: from the last feature map (N, width_in, H, W) to the network's output."""

from __future__ import annotations

from torch import Tensor, nn

from anynet_dist.models.complexity import Tally
from anynet_dist.models.registry import register_head


@register_head("linear")
class LinearHead(nn.Module):
    """Global average pooling, optional dropout and a linear classifier: logits (N, num_classes)."""

    def __init__(self, width_in: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(width_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, num_classes)."""
        return self.fc(self.dropout(self.pool(x).flatten(1)))

    @staticmethod
    def complexity(tally: Tally, num_classes: int, dropout: float = 0.0) -> None:
        """Count the head."""
        tally.global_pool()
        tally.linear(num_classes)


@register_head("features")
class FeaturesHead(nn.Module):
    """Global average pooling alone: features (N, width_in)."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_in)."""
        return self.pool(x).flatten(1)

    @staticmethod
    def complexity(tally: Tally) -> None:
        """Count the head."""
        tally.global_pool()
