"""Train image classifiers from the AnyNet design space on a laptop, one GPU, many GPUs or a SLURM cluster.

    from anynet_dist import AnyNet, anynet_from_params, build_anynet, build_regnet, load_model

The names are imported when they are first used, so that `import anynet_dist` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anynet_dist.models.anynet import AnyNet, anynet_from_params, build_anynet, build_regnet
    from anynet_dist.models.registry import register_block, register_head, register_stem
    from anynet_dist.runs.network_file import load_model

__version__ = version("anynet-dist")

_HOMES = {
    "AnyNet": "models.anynet",
    "anynet_from_params": "models.anynet",
    "build_anynet": "models.anynet",
    "build_regnet": "models.anynet",
    "register_block": "models.registry",
    "register_head": "models.registry",
    "register_stem": "models.registry",
    "load_model": "runs.network_file",
}

__all__ = [
    "AnyNet",
    "__version__",
    "anynet_from_params",
    "build_anynet",
    "build_regnet",
    "load_model",
    "register_block",
    "register_head",
    "register_stem",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anynet_dist' has no attribute {name!r}")
    return getattr(import_module(f"anynet_dist.{_HOMES[name]}"), name)
