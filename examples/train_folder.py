"""Train on a folder of images from Python, load what came out, and ask it about an image.

    python examples/train_folder.py images runs/folder

`images` has a folder for each class; examples/make_images.py makes one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from anynet_dist import Trainer, load_config, load_model


def train_folder(images: Path, run: Path) -> str:
    """Train into the run folder; returns the class that the network gives the first image."""
    options = ["--data.train", str(images), "--run.dir", str(run)]
    loaded = load_config(Path(__file__).with_suffix(".yaml"), options)
    result = Trainer(loaded.config).fit()
    network = load_model(result["run"])  # in evaluation mode
    image = next(images.glob("*/*.jpg"))
    with torch.inference_mode():
        logits = network(network.preprocess(image)[None])  # a file, a Pillow image or an array (H, W, 3)
    return network.classes[int(logits.argmax())]


if __name__ == "__main__":
    print(train_folder(Path(sys.argv[1]), Path(sys.argv[2])))
