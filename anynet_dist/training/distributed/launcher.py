"""Settings of the launcher that the run's config decides: ignored, and reported once."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)


class _Setting(NamedTuple):
    """An environment variable of accelerate's launcher, values that ask for nothing, and our option."""

    variable: str
    neutral: tuple[str, ...]
    option: str


_DECIDED_BY_CONFIG = (
    _Setting("ACCELERATE_DYNAMO_BACKEND", ("no",), "train.compile"),
    _Setting("ACCELERATE_DYNAMO_MODE", ("default",), "train.compile"),
    _Setting("ACCELERATE_DYNAMO_USE_FULLGRAPH", ("false", "0", "no"), "train.compile"),
    _Setting("ACCELERATE_DYNAMO_USE_DYNAMIC", ("false", "0", "no"), "train.compile"),
    _Setting("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", ("false", "0", "no"), "train.compile"),
    _Setting("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", ("1", "auto"), "train.max_device_batch"),
    _Setting("ACCELERATE_GRADIENT_CLIPPING", ("none", "auto"), "train.clip_grad_norm"),
    _Setting("FSDP_ACTIVATION_CHECKPOINTING", ("false", "0", "no"), "train.activation_checkpointing"),
    _Setting("ACCELERATE_TORCH_DEVICE", (), "run.cpu"),
)
_NOT_SUPPORTED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
_SWITCHES = {
    *_NOT_SUPPORTED,
    "ACCELERATE_USE_CPU",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_CPU_AFFINITY",
    "FORK_LAUNCHED",
}
_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


def put_aside() -> None:
    """Remove those variables, so that accelerate reads none, and log which ones asked for something.

    Raises UserError where the launcher asks for a kind of training that is not supported, or a value
    cannot be understood.
    """
    _check_switches()
    ignored = []
    for variable, neutral, option in _DECIDED_BY_CONFIG:
        value = os.environ.pop(variable, "")
        if value and value.lower() not in neutral:
            ignored.append(f"{variable}={value} ({option})")
    if ignored:
        logger.warning("the run's config decides, not the launcher's: %s left out", ", ".join(ignored))


def launcher_wants_cpu() -> bool:
    """Whether the launcher was asked to stay on the CPU: `--cpu`, or `use_cpu: true`."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE


def _check_switches() -> None:
    for name in sorted(_SWITCHES & os.environ.keys()):
        value = os.environ[name].lower()
        if not value:
            del os.environ[name]  # as if it were not there; accelerate cannot read it
        elif value not in _TRUE + _FALSE:
            raise UserError(f"{name}={os.environ[name]}: must be true or false, or not set")
        elif name in _NOT_SUPPORTED and value in _TRUE:
            raise UserError(
                f"the launcher asks for {_NOT_SUPPORTED[name]} ({name}), which is not supported: launch for"
                " DDP, DeepSpeed or FSDP2, as the files in launch/ do"
            )
