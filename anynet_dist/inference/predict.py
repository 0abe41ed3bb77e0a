"""The classes of image files, from the very pixels that evaluation would feed to the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anynet_dist.data import image_folders
from anynet_dist.data.decoding import Pixels, decode, read_image_file, reason
from anynet_dist.data.preprocess import Preprocess
from anynet_dist.runs.network_file import NetworkDescription, load_network
from anynet_dist.system.errors import UserError

BATCH_SIZE = 32


@dataclass(frozen=True)
class Guess:
    """One class of an image and how probable the network holds it to be."""

    name: str
    index: int
    """Number of the output."""
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What came of one image file."""

    image: str
    guesses: tuple[Guess, ...] = ()
    """The most probable classes, best first."""
    error: str | None = None
    """Why there are none."""


def predict(
    path: str | Path,
    images: Sequence[str | Path],
    top: int = 5,
    weights: str = "auto",
    allow_plugins: bool = False,
) -> Iterator[Prediction]:
    """The `top` classes of each image, by the network of a run folder, a checkpoint or a weight file.

    `images` are files, and folders whose image files are taken in alphabetical order. Images are prepared as
    the torch loader prepares them for evaluation; of images that are not square a network trained on squares
    sees the largest centre square. What cannot be read yields a Prediction with an error and does not affect
    the others. Raises UserError where `load_network` does. Computes in fp32, on the accelerator where there
    is one.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    network, description = load_network(path, weights, allow_plugins)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return _predict(network.to(device), description, find_images(images), top, device)


def _predict(
    network: nn.Module,
    description: NetworkDescription,
    files: Sequence[Path],
    top: int,
    device: torch.device,
) -> Iterator[Prediction]:
    for first in range(0, len(files), BATCH_SIZE):
        batch = files[first : first + BATCH_SIZE]
        read = [_read(file) for file in batch]
        whole = [pixels for pixels in read if not isinstance(pixels, str)]
        guesses = iter(_classify(network, description, whole, top, device) if whole else ())
        for file, result in zip(batch, read, strict=True):
            if isinstance(result, str):
                yield Prediction(image_folders.readable(file), error=result)
            else:
                yield Prediction(image_folders.readable(file), next(guesses))


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files among `paths`, and the image files in and below the folders among them, alphabetically."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += _images_below(path) if path.is_dir() else [path]
    return found


def _images_below(folder: Path) -> list[Path]:
    images = image_folders.find_images(folder).images
    if not images:
        known = ", ".join(sorted(image_folders.IMAGE_SUFFIXES))
        raise UserError(f"{image_folders.readable(folder)}: no images in this folder (known: {known})")
    return sorted(folder / image for image in images)


def _read(file: Path) -> Pixels | str:
    """The image's pixels, or why it cannot be read."""
    try:
        return decode(read_image_file(file))
    except Exception as error:  # decoders raise all kinds of errors
        return reason(error)


def prepare(images: Sequence[Pixels], description: NetworkDescription, device: torch.device) -> Tensor:
    """Decoded images (H, W, 3) of any size as evaluation's batch: (N, 3, R, R) float32, normalised."""
    preprocess = Preprocess(
        resolution=description.resolution,
        mean=description.mean,
        std=description.std,
        crop_ratio=description.crop_ratio,
    )
    return preprocess.batch(images, device)


@torch.inference_mode()
def _classify(
    network: nn.Module,
    description: NetworkDescription,
    images: Sequence[Pixels],
    top: int,
    device: torch.device,
) -> list[tuple[Guess, ...]]:
    probabilities = network(prepare(images, description, device)).float().softmax(1)
    ranked = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    return [
        tuple(
            Guess(_class_name(description, index), index, value)
            for index, value in zip(indices, values, strict=True)
        )
        for indices, values in zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
    ]


def _class_name(description: NetworkDescription, index: int) -> str:
    """The name of an output; a network may have more outputs than its data had classes."""
    return description.classes[index] if index < len(description.classes) else f"class {index}"
