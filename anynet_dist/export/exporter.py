"""From a trained network to a file of another format, which is published only once it computes the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anynet_dist import __version__
from anynet_dist.data.normalisation import check_normalisation
from anynet_dist.export.fold import fold_batch_norm
from anynet_dist.export.formats import GRAPH_FORMATS, INPUT, Function
from anynet_dist.export.trained import TrainedNetwork
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.files import atomic_path, check_outputs
from anynet_dist.training.weights import load_model, save_network

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
EXAMPLE_BATCH = 2
WEIGHTS = "safetensors"
FORMATS = (WEIGHTS, *GRAPH_FORMATS)


@dataclass(frozen=True)
class Check:
    """How far an exported network is from the one it was made of."""

    max_difference: float
    """Largest |exported - eager| of an output."""
    allowed: float
    """What it may be at most: the tolerance times the largest |eager| output, or times 1 if that is less."""
    images: int
    """Number of images that were compared."""

    def __str__(self) -> str:
        return (
            f"largest difference from the trained network: {self.max_difference:.2g} on {self.images} images"
            f" (allowed: {self.allowed:.2g})"
        )


class NormalisedNetwork(nn.Module):
    """A network that takes pixels in 0..1 and does the normalisation of its training itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """RGB in 0..1, (N, 3, H, W), to the network's output."""
        return self.network((images - self.mean) / self.std)


def export_network(
    trained: TrainedNetwork,
    to: str,
    out: str | Path | None = None,
    *,
    with_normalisation: bool = False,
    fold_bn: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> tuple[Path, Check]:
    """Write a trained network in the format `to`, one of FORMATS; returns the file and how exact it is.

    `out` is a file, or a folder for a file named `model`; by default it lies in the run folder's `export`.
    `with_normalisation` puts (x - mean) / std in front, so that the file takes RGB images in 0..1; `fold_bn`
    makes batch norm part of the convolutions. The file is read back and compared with the eager network;
    where they differ by more than the tolerance UserError is raised and no file is left. So it is, before
    any work, where the file exists and `overwrite` does not say to replace it.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if not tolerance > 0:
        raise UserError(f"--tolerance must be a number above 0, not {tolerance:g}")
    if to == WEIGHTS and (with_normalisation or fold_bn):
        raise UserError(
            f"--to {WEIGHTS} holds the weights of the network as it was trained; --with-normalisation and"
            f" --fold-bn change the network: use {', '.join(GRAPH_FORMATS)}"
        )
    check_normalisation(trained.description.mean, trained.description.std)
    target = _target(trained, to, out)
    check_outputs(target, overwrite=overwrite)
    with atomic_path(target) as temporary:
        if to == WEIGHTS:
            save_network(temporary, trained.network, trained.description, **trained.facts)
            exported: Function = load_model(temporary)
        else:
            _write_graph(trained, to, temporary, with_normalisation, fold_bn)
            exported = GRAPH_FORMATS[to].read(temporary)
        check = compare(exported, trained, with_normalisation, tolerance)
        _refuse_if_wrong(check, target)
    return target, check


def _target(trained: TrainedNetwork, to: str, out: str | Path | None) -> Path:
    suffix = f".{WEIGHTS}" if to == WEIGHTS else GRAPH_FORMATS[to].suffix
    folder = Path(out) if out else trained.export_folder
    return folder / f"model{suffix}" if out is None or folder.is_dir() else folder


def _write_graph(
    trained: TrainedNetwork, to: str, path: Path, with_normalisation: bool, fold_bn: bool
) -> None:
    description = trained.description
    network: nn.Module = fold_batch_norm(trained.network) if fold_bn else trained.network
    if with_normalisation:
        network = NormalisedNetwork(network, description.mean, description.std).eval()
    example = torch.zeros(EXAMPLE_BATCH, *trained.input_shape)
    metadata = describe_graph(trained, with_normalisation, fold_bn)
    with torch.no_grad():
        GRAPH_FORMATS[to].write(network, example, path, metadata)


def describe_graph(trained: TrainedNetwork, with_normalisation: bool, fold_bn: bool) -> dict[str, str]:
    """The metadata of an exported network: each a JSON text."""
    description = trained.description
    takes: dict[str, Any] = {
        "name": INPUT,
        "shape": ["batch", *trained.input_shape],
        "dtype": "float32",
        "channels": "RGB",
        "values": "in 0..1" if with_normalisation else "(x - mean) / std of x in 0..1",
        "mean": description.mean,
        "std": description.std,
    }
    facts = {
        **trained.facts,
        "anynet_dist": __version__,
        "classes": description.classes,
        "input": takes,
        "batch_norm": "folded" if fold_bn else "kept",
    }
    return {"network": description.to_json()} | {name: json.dumps(value) for name, value in facts.items()}


@torch.inference_mode()
def compare(exported: Function, trained: TrainedNetwork, with_normalisation: bool, tolerance: float) -> Check:
    """Compare outputs for random images in batches of other sizes than the one exported with."""
    generator = torch.Generator().manual_seed(0)
    description = trained.description
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (description.mean, description.std))
    differences, outputs = [], []
    for batch in CHECKED_BATCHES:
        pixels = torch.rand(batch, *trained.input_shape, generator=generator)
        images = (pixels - mean) / std
        eager = trained.network(images)
        found = exported(pixels if with_normalisation else images)
        differences.append((found - eager).abs())
        outputs.append(eager.abs())
    largest = torch.cat(outputs).max().item()
    return Check(torch.cat(differences).max().item(), tolerance * max(1.0, largest), sum(CHECKED_BATCHES))


def _refuse_if_wrong(check: Check, target: Path) -> None:
    if not check.max_difference <= check.allowed:  # so that one that is not a number is refused too
        raise UserError(
            f"{target} is not written: the exported network differs from the eager one by up to"
            f" {check.max_difference:.2g}, and {check.allowed:.2g} is allowed; --tolerance sets what is"
        )
