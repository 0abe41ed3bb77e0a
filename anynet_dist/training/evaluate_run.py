"""Evaluation of a trained network apart from its training."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anynet_dist.config import Config, load_config
from anynet_dist.config.load import LoadedConfig
from anynet_dist.runs.network_file import load_network
from anynet_dist.system.errors import UserError
from anynet_dist.system.plugins import load_plugins
from anynet_dist.training import build
from anynet_dist.training.classification import ClassificationScores
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.engine import forget_engine
from anynet_dist.training.evaluation import evaluate
from anynet_dist.training.memory_format import FORMATS
from anynet_dist.training.task import Scores, TaskSetting
from anynet_dist.training.tasks import make_task

logger = logging.getLogger(__name__)


def evaluate_run(
    path: str,
    split: str,
    weights: str = "auto",
    overrides: Sequence[str] = (),
    allow_plugins: bool = False,
) -> Scores:
    """Scores of a run's or a checkpoint's network on the split `train`, `val` or `test`, over all processes.

    The run's own config gives data, resolution and precision; `overrides` come on top of it. Plug-ins
    that the run names are loaded only with `allow_plugins`, those among the overrides always. Raises
    UserError where the config has no such split, and as `load_network` does.
    """
    config = _config_of(Path(path), overrides)
    load_plugins(config.plugins)
    network, description = load_network(path, weights, allow_plugins)
    splits = build.open_splits(config)
    if split not in splits:
        raise UserError(f"the run has no {split} split (it has {', '.join(splits)}); set --data.{split} PATH")
    if splits[split].classes != description.classes:
        raise UserError(f"{splits[split].path} has other classes than the network was trained on")
    precision, _ = devices.choose_precision(config)
    forget_engine()
    accelerator = devices.build_accelerator(config, precision, accumulation=1)
    memory_format = FORMATS[_memory_format(Path(path), config)]
    network.to(accelerator.device).to(memory_format=memory_format)
    setting = TaskSetting(num_classes=len(description.classes), classes=description.classes)
    task = make_task(config.train.task, setting)
    loader = build.build_eval_loader(config, splits[split], accelerator, memory_format)
    try:
        scores = evaluate(network, loader, accelerator, task)
    finally:
        loader.close()
    accelerator.end_training()
    warning = task.warning(scores)
    if warning and accelerator.is_main_process:
        logger.warning("%s: %s", split, warning)
    if isinstance(scores, ClassificationScores) and scores.classes:
        return replace(scores, classes=replace(scores.classes, names=description.classes))
    return scores


def default_split(path: str, overrides: Sequence[str] = ()) -> str:
    """The split that a run is measured by: test, or, as is logged, val where it has no test images."""
    data = _config_of(Path(path), overrides).data
    if data.test is None and (data.val is not None or data.val_fraction):
        logger.info("the run has no test images: it is evaluated on those of val")
        return "val"
    return "test"


def _config_of(path: Path, overrides: Sequence[str]) -> Config:
    """The config of the run that `path` is, or lies in, without the plug-ins that the run itself names."""
    for folder in (path, *path.resolve().parents[:3]):
        if (folder / "config.yaml").is_file():
            return _without_own_plugins(load_config(folder / "config.yaml", overrides, only_to_look=True))
    raise UserError(f"{path} is not a run folder, nor does it lie in one: there is no config.yaml")


def _memory_format(path: Path, config: Config) -> str:
    """The format that the run was trained in, where its folder tells."""
    if config.train.memory_format != "auto":
        return config.train.memory_format
    for folder in (path, *path.resolve().parents[:3]):
        try:
            found = json.loads((folder / "environment.json").read_bytes())["memory_format"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found in FORMATS:
            return str(found)
    return "contiguous"


def _without_own_plugins(loaded: LoadedConfig) -> Config:
    source = loaded.sources.get("plugins")
    return loaded.config if source and source.flag else replace(loaded.config, plugins=[])
