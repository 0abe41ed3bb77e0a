"""From a trained network to a file of another format, which is published only once it computes the same."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anynet_dist import __version__
from anynet_dist.data.transforms.normalisation import check_normalisation
from anynet_dist.export.fold import fold_batch_norm
from anynet_dist.export.formats import GRAPH_FORMATS, INPUT, Function
from anynet_dist.export.libraries import LIBRARY_FORMATS, read_timm_folder, write_timm_folder
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.runs.file_names import MODEL
from anynet_dist.runs.network_file import load_model, save_network
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.files import atomic_path, check_outputs

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
EXAMPLE_BATCH = 2
WEIGHTS = "safetensors"
FORMATS = (WEIGHTS, *LIBRARY_FORMATS, *GRAPH_FORMATS)
TIMM_FILES = (MODEL, "config.json")


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
    dynamic_side: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> tuple[Path, Check]:
    """Write a trained network in the format `to`, one of FORMATS; returns the file and how exact it is.

    `out` is a file, or a folder for a file named `model`; by default it lies in the run folder's `export`.
    `with_normalisation` puts (x - mean) / std in front, so that the file takes RGB images in 0..1; `fold_bn`
    makes batch norm part of the convolutions; `dynamic_side` lets the file take images of other sizes. The
    file is read back and compared with the eager network;
    where they differ by more than the tolerance UserError is raised and no file is left. So it is, before
    any work, where the file exists and `overwrite` is false.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if not tolerance > 0:
        raise UserError(f"--tolerance must be a number above 0, not {tolerance:g}")
    if to not in GRAPH_FORMATS and (with_normalisation or fold_bn or dynamic_side):
        raise UserError(
            f"--to {to} holds the weights of the network as it was trained; --with-normalisation,"
            f" --dynamic-side and --fold-bn change the network: use {', '.join(GRAPH_FORMATS)}"
        )
    check_normalisation(trained.description.mean, trained.description.std)
    target = _target(trained, to, out)
    check_outputs(target, overwrite=overwrite)
    with atomic_path(target) as temporary:
        if to == WEIGHTS:
            save_network(temporary, trained.network, trained.description, **trained.facts)
            exported: Function = load_model(temporary)
        elif to in LIBRARY_FORMATS:
            LIBRARY_FORMATS[to].write(trained, temporary)
            exported = LIBRARY_FORMATS[to].read(trained, temporary)
        else:
            with _for_any_side(dynamic_side):
                _write_graph(trained, to, temporary, with_normalisation, fold_bn, dynamic_side)
            exported = GRAPH_FORMATS[to].read(temporary)
        with _for_any_side(dynamic_side):
            check = compare(exported, trained, with_normalisation, tolerance, dynamic_side)
        _refuse_if_wrong(check, target)
    return target, check


@contextmanager
def _for_any_side(dynamic_side: bool) -> Iterator[None]:
    """Name the free side as the cause, which a network, e.g. with plug-ins, may not support."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # exporters and their runtimes raise all kinds of errors
        if not dynamic_side:
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--dynamic-side: this network cannot take images of every size: {reason}") from error


def export_timm_folder(
    trained: TrainedNetwork,
    out: str | Path | None = None,
    *,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> tuple[Path, Check]:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` takes; checked by that.

    By default that is `timm` in the run folder's `export`. Raises UserError as `export_network` does.
    """
    folder = Path(out) if out else trained.export_folder / "timm"
    check_outputs(*(folder / name for name in TIMM_FILES), overwrite=overwrite)
    with tempfile.TemporaryDirectory() as temporary:
        write_timm_folder(trained, Path(temporary))
        check = compare(read_timm_folder(Path(temporary)), trained, False, tolerance)
        _refuse_if_wrong(check, folder)
        for name in TIMM_FILES:
            with atomic_path(folder / name) as file:
                shutil.copyfile(Path(temporary) / name, file)
    return folder, check


def _target(trained: TrainedNetwork, to: str, out: str | Path | None) -> Path:
    formats = GRAPH_FORMATS | LIBRARY_FORMATS
    suffix = f".{WEIGHTS}" if to == WEIGHTS else formats[to].suffix
    folder = Path(out) if out else trained.export_folder
    return folder / f"model{suffix}" if out is None or folder.is_dir() else folder


def _write_graph(
    trained: TrainedNetwork,
    to: str,
    path: Path,
    with_normalisation: bool,
    fold_bn: bool,
    dynamic_side: bool,
) -> None:
    description = trained.description
    network: nn.Module = fold_batch_norm(trained.network) if fold_bn else trained.network
    if with_normalisation:
        network = NormalisedNetwork(network, description.mean, description.std).eval()
    example = torch.zeros(EXAMPLE_BATCH, *trained.input_shape)
    metadata = describe_graph(trained, with_normalisation, fold_bn, dynamic_side)
    with torch.no_grad():
        GRAPH_FORMATS[to].write(network, example, path, metadata, dynamic_side)


def describe_graph(
    trained: TrainedNetwork, with_normalisation: bool, fold_bn: bool, dynamic_side: bool = False
) -> dict[str, str]:
    """The metadata of an exported network: each a JSON string."""
    description = trained.description
    sides = ["height", "width"] if dynamic_side else trained.input_shape[1:]
    takes: dict[str, Any] = {
        "name": INPUT,
        "shape": ["batch", trained.input_shape[0], *sides],
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
def compare(
    exported: Function,
    trained: TrainedNetwork,
    with_normalisation: bool,
    tolerance: float,
    dynamic_side: bool = False,
) -> Check:
    """Compare outputs for random images in batches of other sizes than the one exported with.

    With `dynamic_side` the images of one batch are no squares, and larger than those exported with.
    """
    generator = torch.Generator().manual_seed(0)
    description = trained.description
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (description.mean, description.std))
    differences, outputs = [], []
    channels, side, _ = trained.input_shape
    shapes = [(side, side)] * len(CHECKED_BATCHES)
    if dynamic_side:
        shapes[-1] = (side * 5 // 4 + 1, side * 3 // 2)
    for batch, shape in zip(CHECKED_BATCHES, shapes, strict=True):
        pixels = torch.rand(batch, channels, *shape, generator=generator)
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
