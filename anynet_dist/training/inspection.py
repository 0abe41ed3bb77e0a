"""A closer look at a finished network: where its answers go, and its most certain mistakes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

MOST_CLASSES = 1000
"""With more, the confusion matrix is left out: it grows with their square."""
MISTAKES = 24


class Inspection:
    """Counts answers and keeps the most certain mistakes, with their images, on this rank's device."""

    def __init__(self, classes: int, resolution: int, device: torch.device) -> None:
        counted = classes if classes <= MOST_CLASSES else 0
        self.confusion = torch.zeros(counted, counted, dtype=torch.int64, device=device)
        self.confidence = torch.full((MISTAKES,), -1.0, device=device)
        # Of each mistake: sample number on this rank, label, guess.
        self.facts = torch.zeros(MISTAKES, 3, dtype=torch.int64, device=device)
        self.images = torch.zeros(MISTAKES, 3, resolution, resolution, device=device)
        self.seen = 0

    def update(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: images (B, 3, R, R), logits (B, classes) and labels (B,)."""
        confidence, guesses = logits.softmax(dim=1).max(dim=1)
        finite = torch.isfinite(logits).all(dim=1)
        if self.confusion.numel():
            places = labels * len(self.confusion) + guesses
            self.confusion.view(-1).index_add_(0, places, finite.long())
        certain = torch.where(finite & (guesses != labels), confidence, -1.0)
        certain, chosen = certain.topk(min(MISTAKES, len(labels)))
        numbers = torch.arange(self.seen, self.seen + len(labels), device=labels.device)
        facts = torch.stack([numbers, labels, guesses], dim=1)[chosen]
        self.confidence, kept = torch.cat([self.confidence, certain]).topk(MISTAKES)
        self.facts = torch.cat([self.facts, facts])[kept]
        self.images = torch.cat([self.images, images[chosen].float()])[kept]
        self.seen += len(labels)

    def name_samples(self, order: Tensor) -> None:
        """Replace sample numbers on this rank by what `order` (samples of this rank,) has at their places."""
        if len(order):
            self.facts[:, 0] = order.to(self.facts.device)[self.facts[:, 0]]

    def gather(self, accelerator: Accelerator) -> None:
        """Bring together the counts of all ranks, and the most certain of all mistakes; on every rank."""
        self.confusion = accelerator.reduce(self.confusion, reduction="sum")
        ranks, rank = accelerator.num_processes, accelerator.process_index
        every = accelerator.gather(self.confidence)
        self.confidence, chosen = every.topk(MISTAKES)
        own = chosen // MISTAKES == rank if ranks > 1 else torch.ones_like(chosen, dtype=torch.bool)
        places = chosen % MISTAKES
        # Each rank fills in its own: a sum over ranks moves fewer images than a gather.
        facts = torch.where(own[:, None], self.facts[places], 0)
        images = torch.where(own[:, None, None, None], self.images[places], 0.0)
        self.facts = accelerator.reduce(facts, reduction="sum")
        self.images = accelerator.reduce(images, reduction="sum")

    @property
    def found(self) -> int:
        """How many mistakes there are, at most MISTAKES."""
        return int((self.confidence >= 0).sum())
