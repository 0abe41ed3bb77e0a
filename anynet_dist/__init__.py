"""Train image classifiers from the AnyNet design space on a laptop, one GPU, many GPUs or a SLURM cluster.

    from anynet_dist import Trainer, load_config

    Trainer(load_config("mine.yaml").config).fit()

The names are imported when they are first used, so that `import anynet_dist` does not wait for torch. What
can be registered, and how, is in docs/extending.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anynet_dist.system.install import own_version

if TYPE_CHECKING:
    from anynet_dist.config import Config, load_config
    from anynet_dist.data.dataset import open_dataset
    from anynet_dist.data.loaders.factory import eval_loader, train_loader
    from anynet_dist.data.sources import register_source
    from anynet_dist.models.anynet import AnyNet, anynet_from_params, build_anynet, build_regnet
    from anynet_dist.models.registry import register_block, register_head, register_stem
    from anynet_dist.models.vocabulary import complexity
    from anynet_dist.runs.network_file import load_model
    from anynet_dist.runs.trackers import register_tracker
    from anynet_dist.training.hooks import register_hook
    from anynet_dist.training.optim.losses import register_loss
    from anynet_dist.training.optim.optimizers import register_optimizer
    from anynet_dist.training.optim.schedules import register_schedule
    from anynet_dist.training.tasks import register_task
    from anynet_dist.training.trainer import Trainer

__version__ = own_version()

_HOMES = {
    "AnyNet": "models.anynet",
    "Config": "config",
    "Trainer": "training.trainer",
    "anynet_from_params": "models.anynet",
    "build_anynet": "models.anynet",
    "build_regnet": "models.anynet",
    "complexity": "models.vocabulary",
    "eval_loader": "data.loaders.factory",
    "load_config": "config",
    "load_model": "runs.network_file",
    "open_dataset": "data.dataset",
    "register_block": "models.registry",
    "register_head": "models.registry",
    "register_hook": "training.hooks",
    "register_loss": "training.optim.losses",
    "register_optimizer": "training.optim.optimizers",
    "register_schedule": "training.optim.schedules",
    "register_source": "data.sources",
    "register_stem": "models.registry",
    "register_task": "training.tasks",
    "register_tracker": "runs.trackers",
    "train_loader": "data.loaders.factory",
}

__all__ = [
    "AnyNet",
    "Config",
    "Trainer",
    "__version__",
    "anynet_from_params",
    "build_anynet",
    "build_regnet",
    "complexity",
    "eval_loader",
    "load_config",
    "load_model",
    "open_dataset",
    "register_block",
    "register_head",
    "register_hook",
    "register_loss",
    "register_optimizer",
    "register_schedule",
    "register_source",
    "register_stem",
    "register_task",
    "register_tracker",
    "train_loader",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anynet_dist' has no attribute {name!r}")
    return getattr(import_module(f"anynet_dist.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
