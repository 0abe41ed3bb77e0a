"""A small folder of photographs to try things out with, one folder for each class, without a download.

    python examples/make_images.py images

writes images/building/*.jpg and images/flower/*.jpg: pieces of the two photographs that come with
scikit-learn, of different places, sizes and brightness: a hundred of each, or as many as a second argument
says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

PHOTOGRAPHS = {"building": "china.jpg", "flower": "flower.jpg"}


def make_images(folder: Path, each: int = 100, seed: int = 0) -> None:
    """Write `each` images of every class into `folder`; the same seed makes the same images."""
    random = np.random.default_rng(seed)
    for name, photograph in PHOTOGRAPHS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        whole = Image.fromarray(load_sample_image(photograph))
        for number in range(each):
            width, height = random.integers(120, 240, size=2)
            left, top = random.integers(whole.width - width), random.integers(whole.height - height)
            piece = whole.crop((left, top, left + width, top + height))
            piece = ImageEnhance.Brightness(piece).enhance(random.uniform(0.6, 1.4))
            piece.save(folder / name / f"{number:03}.jpg", quality=90)


if __name__ == "__main__":
    make_images(Path(sys.argv[1]), *map(int, sys.argv[2:]))
