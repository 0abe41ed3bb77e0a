"""What a finished network gets right and wrong, as a file of its run folder: findings.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anynet_dist.system.files import write_text

FINDINGS = "findings.json"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image that the network is wrong about."""

    label: int
    """Its class."""
    guess: int
    """The class that the network holds to be most probable."""
    confidence: float
    """How probable, in 0..1."""
    name: str
    """The image's file, or its number in a .beton file."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The confusion matrix of a network on one split, and its most certain mistakes."""

    split: str
    epoch: int
    """At the end of which the network was taken."""
    classes: tuple[str, ...]
    counts: tuple[tuple[int, int, int], ...]
    """(class, guess, images) wherever there are any; empty where there are too many classes."""
    mistakes: tuple[Mistake, ...]
    """Most certain first; their images are in the picture SPLIT_mistakes.jpg, row by row."""

    def matrix(self) -> NDArray[np.int64]:
        """The confusion matrix (classes, guesses), in images."""
        matrix = np.zeros((len(self.classes),) * 2, np.int64)
        for label, guess, images in self.counts:
            matrix[label, guess] = images
        return matrix


def write_findings(file: Path, findings: Findings) -> None:
    """Write them as JSON on one line."""
    write_text(file, json.dumps(asdict(findings)) + "\n")


def read_findings(file: Path) -> Findings | None:
    """Those of a run; None where it has none, or a file that is damaged."""
    try:
        values: dict[str, Any] = json.loads(file.read_bytes())
        mistakes = tuple(Mistake(**each) for each in values.pop("mistakes"))
        classes, counts = tuple(map(str, values.pop("classes"))), values.pop("counts")
        triples = tuple((int(label), int(guess), int(images)) for label, guess, images in counts)
        found = Findings(**values, classes=classes, counts=triples, mistakes=mistakes)
        found.matrix()
        named = all(0 <= number < len(classes) for each in mistakes for number in (each.label, each.guess))
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    return found if named else None
