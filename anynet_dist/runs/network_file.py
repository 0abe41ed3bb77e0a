"""Trained networks as files: safetensors whose metadata describes how to build the network they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from anynet_dist.data.preprocess import Preprocess
from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.models.registry import provide_parts
from anynet_dist.runs.file_names import AVERAGE, MODEL
from anynet_dist.runs.hub import PREFIX, hub_folder
from anynet_dist.runs.manifest import MANIFEST, Listed, ManifestError, read_manifest
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path, write_json
from anynet_dist.system.utf8_paths import utf8_path

DESCRIPTION = "network.json"
# What safetensors calls the types of tensors, in the order in which it writes them.
DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """Everything needed to build a network again and to feed it images."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: dict[str, Any]
    """Arguments of `build_anynet`."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken off each pixel, in 0..1."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides each pixel, in 0..1."""
    resolution: int = 224
    """Side in pixels of evaluated images."""
    crop_ratio: float | None = None
    """Side of the centre crop as a fraction of the shorter side; None takes square images whole."""
    plugins: list[str] = field(default_factory=list)
    """Python files that register the blocks, stems or heads of the network; in a file, relative to it."""

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> NetworkDescription:
        """The inverse of `to_json`. Raises UserError where `text` is no description."""
        try:
            return _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{where}: {first['msg']}" if where else first["msg"]) from None


@cache
def _adapter() -> TypeAdapter[NetworkDescription]:
    return TypeAdapter(NetworkDescription)


def write_description(path: Path, description: NetworkDescription) -> None:
    """Write the description beside a run's checkpoints, whose weight files do not carry it."""
    write_json(path, asdict(description))


def save_network(path: Path, network: nn.Module, description: NetworkDescription, **facts: object) -> None:
    """Write weights with their description, and `facts` such as the accuracy, in the metadata; atomically."""
    metadata = {"format": "pt", "network": description.to_json()}
    metadata |= {key: json.dumps(value) for key, value in facts.items()}
    with atomic_path(path) as temporary:
        write_tensors(temporary, network, metadata)


def write_tensors(path: Path, network: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write the state dict of a network as safetensors."""
    write_state_dict(path, network.state_dict(), metadata)


def write_state_dict(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as safetensors, with metadata in the order of its keys.

    The same file as safetensors' own functions write, but for the order of metadata, which differs there from
    process to process: equal networks make equal files. Its `save` holds up all other threads of Python while
    it copies; the files of its `save_file` only their owner can read, whatever the umask. The format:
    https://github.com/huggingface/safetensors#format
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # As the library orders them, so that each is aligned: the larger types first.
    types = list(DTYPES)
    names = sorted(tensors, key=lambda name: (types.index(tensors[name].dtype), name))
    with path.open("wb") as file:
        file.write(_head({name: tensors[name] for name in names}, metadata or {}))
        for name in names:
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def _head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file: its length, then what follows it, as JSON."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def load_network(
    path: str | Path, weights: str = "auto", allow_plugins: bool = False
) -> tuple[AnyNet, NetworkDescription]:
    """The trained network of a run folder, a checkpoint folder, a model.safetensors or `hf:OWNER/NAME` on the
    Hugging Face Hub, in evaluation mode, with its `classes` and `preprocess`.

    In a checkpoint `weights` chooses between `raw` and `ema`; `auto` is the moving average where there is
    one. A run folder gives the network it ended with. The python files that the network needs are
    run only with `allow_plugins`; without them a network loads whose parts are registered already. Raises
    UserError where there is no network, where plug-ins are missing, and where a file is damaged: a
    checkpoint's are compared with its manifest.
    """
    file = find_weights(Path(path), weights)
    check_listed(file)
    description = read_description(file)
    provide_parts(description.model, description.plugins, file, allow_plugins)
    network = _build(file, description)
    try:
        network.load_state_dict(load_tensors(file))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise UserError(
            f"{file} does not hold the weights of its own description: {_in_short(error)}"
        ) from None
    network.classes = description.classes
    network.preprocess = Preprocess(
        resolution=description.resolution,
        mean=description.mean,
        std=description.std,
        crop_ratio=description.crop_ratio,
    )
    return network.eval(), description


def _build(file: Path, description: NetworkDescription) -> AnyNet:
    try:
        return build_anynet(**description.model)
    except (ValueError, TypeError, RuntimeError) as error:  # the description may hold anything
        raise UserError(f"{file} describes a network that cannot be built: {_in_short(error)}") from None


def _in_short(error: Exception) -> str:
    return shorten(str(error), width=300, placeholder=" ...")


def load_model(path: str | Path, weights: str = "auto", allow_plugins: bool = False) -> AnyNet:
    """As `load_network`, without the description: `load_model("runs/digits")` is ready to classify.

    `network(network.preprocess(image)[None])` are the logits of an image file, a Pillow image or an array,
    and `network.classes` the names of the outputs.
    """
    return load_network(path, weights, allow_plugins)[0]


def find_weights(path: Path, weights: str = "auto") -> Path:
    """The weight file that `load_network` takes. Raises UserError where there is none, or a checkpoint has
    lost it."""
    if str(path).startswith(PREFIX) and not path.exists():
        path = hub_folder(str(path))
    if path.is_file():
        return path
    names = {"raw": [MODEL], "ema": [AVERAGE], "auto": [AVERAGE, MODEL]}[weights]
    manifest = _manifest(path)
    for name in names:
        if (path / name).is_file():
            return path / name
        if name in manifest:
            raise UserError(f"checkpoint {path} is damaged: {name} is missing")
    if (path / "checkpoints" / "last").exists():
        raise UserError(
            f"{path} is an unfinished run: name one of its checkpoints, {path}/checkpoints/last or best"
        )
    raise UserError(f"{path} holds no trained network ({' or '.join(names)})")


def check_listed(file: Path) -> None:
    """Compare a file with the manifest of the checkpoint that it lies in, if it lies in one.

    Raises UserError where it has changed.
    """
    from anynet_dist.runs.progress import PROGRESS

    folder, name = file.resolve().parent, file.resolve().name
    manifest = _manifest(folder)
    if name in manifest:
        if damage := manifest[name].damage(file):
            raise UserError(f"{file} is damaged: it {damage}")
    elif PROGRESS in manifest and name in (MODEL, AVERAGE):
        raise UserError(f"{file} is not of the checkpoint that it lies in: the manifest does not list it")


def _manifest(folder: Path) -> dict[str, Listed]:
    """The manifest of a checkpoint; nothing where there is none."""
    try:
        return read_manifest(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ManifestError):
        raise UserError(f"checkpoint {folder} is damaged: its {MANIFEST} cannot be read") from None


def read_description(file: Path) -> NetworkDescription:
    """The description in the metadata of `file`, else in the run folder above the checkpoint it lies in.

    Raises UserError where there is none, or none that can be read.
    """
    metadata = _metadata(file)
    if "network" in metadata:
        return _described(metadata["network"], file)
    for folder in file.resolve().parents[:3]:
        if (folder / DESCRIPTION).is_file():
            check_listed(folder / DESCRIPTION)
            return _described((folder / DESCRIPTION).read_bytes(), folder / DESCRIPTION)
    raise UserError(f"{file} does not describe its network, and no {DESCRIPTION} lies above it")


def _described(text: str | bytes, file: Path) -> NetworkDescription:
    """The description that `file` holds, with the paths of its plug-ins as seen from the file's folder."""
    try:
        description = NetworkDescription.from_json(text)
    except UserError as error:
        raise UserError(f"{file} does not describe a network: {error}") from None
    plugins = [str((file.parent / plugin).absolute()) for plugin in description.plugins]
    return replace(description, plugins=plugins)


def read_facts(file: Path) -> dict[str, Any]:
    """The facts that `save_network` wrote beside the description; none for a checkpoint's weights."""
    metadata = _metadata(file)
    return {key: _fact(value) for key, value in metadata.items() if key not in ("format", "network")}


def _fact(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # a remark of another program
        return text


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises SafetensorError where it is none."""
    with utf8_path(file) as name:
        return load_file(name)


def _metadata(file: Path) -> dict[str, str]:
    try:
        with utf8_path(file) as name, safe_open(name, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file: {error}") from None
