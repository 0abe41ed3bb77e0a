"""Trained networks as files: safetensors whose metadata says how to build the network they belong to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn

from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path, write_json

DESCRIPTION = "network.json"
MODEL = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """Everything needed to build a network again and to feed it images."""

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
    """Share of the shorter side that the evaluation's centre crop keeps; None takes square images whole."""
    plugins: list[str] = field(default_factory=list)
    """Python files that register the blocks, stems or heads of the network."""

    def to_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> NetworkDescription:
        """The inverse of `to_json`."""
        facts = json.loads(text)
        tuples = {name: tuple(facts[name]) for name in ("classes", "mean", "std")}
        return NetworkDescription(**{**facts, **tuples})


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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # safetensors' own save_file makes files that only their owner can read, whatever the umask.
    path.write_bytes(serialize(tensors, metadata=metadata))


def load_network(path: str | Path, weights: str = "auto") -> tuple[AnyNet, NetworkDescription]:
    """The trained network of a run folder, a checkpoint folder or a model.safetensors, in evaluation mode.

    In a checkpoint `weights` chooses between `raw` and `ema`; `auto` is the moving average where there is
    one. A run folder gives the network it ended with. Raises UserError where there is none.
    """
    file = find_weights(Path(path), weights)
    description = read_description(file)
    if description.plugins:
        from anynet_dist.models.registry import load_plugins

        load_plugins(description.plugins)
    network = build_anynet(**description.model)
    try:
        network.load_state_dict(load_file(str(file)))
    except RuntimeError as error:
        raise UserError(f"{file} does not hold the weights of its own description: {error}") from None
    return network.eval(), description


def load_model(path: str | Path, weights: str = "auto") -> AnyNet:
    """As `load_network`, without the description: `load_model("runs/digits")` is ready to classify."""
    return load_network(path, weights)[0]


def find_weights(path: Path, weights: str = "auto") -> Path:
    """The weight file that `load_network` takes. Raises UserError where there is none."""
    if path.is_file():
        return path
    names = {"raw": [MODEL], "ema": ["ema.safetensors"], "auto": ["ema.safetensors", MODEL]}[weights]
    for name in names:
        if (path / name).is_file():
            return path / name
    if (path / "checkpoints" / "last").exists():
        raise UserError(
            f"{path} is an unfinished run: name one of its checkpoints, {path}/checkpoints/last or best"
        )
    raise UserError(f"{path} holds no trained network ({' or '.join(names)})")


def read_description(file: Path) -> NetworkDescription:
    """The description in the metadata of `file`, else in the run folder above the checkpoint it lies in."""
    metadata = _metadata(file)
    if "network" in metadata:
        return NetworkDescription.from_json(metadata["network"])
    for folder in file.resolve().parents[:3]:
        if (folder / DESCRIPTION).is_file():
            return NetworkDescription.from_json((folder / DESCRIPTION).read_text())
    raise UserError(f"{file} does not say which network it belongs to, and no {DESCRIPTION} lies above it")


def read_facts(file: Path) -> dict[str, Any]:
    """The facts that `save_network` wrote beside the description; none for a checkpoint's weights."""
    metadata = _metadata(file)
    return {key: json.loads(value) for key, value in metadata.items() if key not in ("format", "network")}


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file: {error}") from None
