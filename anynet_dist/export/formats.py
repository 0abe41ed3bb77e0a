"""Files that hold a whole network, not its weights alone: TorchScript, torch.export and ONNX.

Each takes images (N, 3, R, R) for any batch size N, and carries metadata: strings by name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anynet_dist.export.optional import require
from anynet_dist.system.errors import UserError

INPUT, OUTPUT = "images", "logits"
LARGEST_ONNX = 2**31 - 2**20
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GraphFormat:
    """How a network is written to a file, and read back as a function of images alone."""

    suffix: str
    write: Callable[[nn.Module, Tensor, Path, Mapping[str, str], bool], None]
    """Takes the network, example images of at least two, the file, the metadata, and whether images may have
    other sides than the examples'."""
    read: Callable[[Path], Function]


@contextmanager
def _without_deprecation_of_torchscript() -> Iterator[None]:
    """PyTorch's advice to leave TorchScript, for those who were asked for just that."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", category)
        yield


def write_torchscript(
    network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], dynamic_side: bool = False
) -> None:
    """Trace the network, for images of any size; each string of the metadata is a file of the archive."""
    with _without_deprecation_of_torchscript():
        torch.jit.save(torch.jit.trace(network, example), str(path), _extra_files=dict(metadata))


def read_torchscript(path: Path) -> Function:
    """The traced network."""
    with _without_deprecation_of_torchscript():
        function: Function = torch.jit.load(str(path), map_location="cpu")
    return function


def write_torch_export(
    network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], dynamic_side: bool = False
) -> None:
    """Export with torch.export; each string of the metadata is an extra file of the archive."""
    # Into memory first: torch.export.save insists on a file name in .pt2, which a temporary file has not.
    buffer = io.BytesIO()
    (shapes,) = _dynamic_shapes(dynamic_side)
    # A named side would have to be free altogether, but the last feature map must have more than one pixel.
    sides = {dimension: torch.export.Dim.AUTO for dimension in shapes if dimension}
    program = torch.export.export(network, (example,), dynamic_shapes=(shapes | sides,))
    torch.export.save(program, buffer, extra_files=dict(metadata))
    path.write_bytes(buffer.getvalue())


def read_torch_export(path: Path) -> Function:
    """The exported program's module."""
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def write_onnx(
    network: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str], dynamic_side: bool = False
) -> None:
    """Export with PyTorch's ONNX exporter and check the file with ONNX's checker."""
    onnx = require("onnx")
    for package in ("onnxscript", "onnxruntime"):
        require(package)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > LARGEST_ONNX:
        raise UserError(f"an ONNX file holds at most 2 GiB, and the weights are {size / 2**30:.1f} GiB")
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=_dynamic_shapes(dynamic_side),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def read_onnx(path: Path) -> Function:
    """The file as onnxruntime computes it on the CPU."""
    session = require("onnxruntime").InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _dynamic_shapes(dynamic_side: bool) -> tuple[dict[int, torch.export.Dim]]:
    names = {0: "batch", 2: "height", 3: "width"} if dynamic_side else {0: "batch"}
    return ({dimension: torch.export.Dim(name) for dimension, name in names.items()},)


GRAPH_FORMATS = {
    "torchscript": GraphFormat(".pt", write_torchscript, read_torchscript),
    "onnx": GraphFormat(".onnx", write_onnx, read_onnx),
    "torch-export": GraphFormat(".pt2", write_torch_export, read_torch_export),
}
