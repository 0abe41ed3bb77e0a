"""DeepSpeed: optimizer state (ZeRO-1), gradients (2) and weights (3) spread over the ranks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn

from anynet_dist.config.schema import Config
from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import install_command
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.ddp import (
    AutocastAccelerator,
    Engine,
    MakeOptimizer,
    ShardedEngine,
    reject_ddp_only_options,
)

logger = logging.getLogger(__name__)

Settings = dict[str, Any]

# The config decides these, and DeepSpeed would do them a second time or to batch norm as well.
DECIDED_BY_CONFIG = {
    "optimizer": "optim",
    "scheduler": "schedule",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
}


OFFLOADS = ("offload_optimizer", "offload_param")


class DeepSpeedEngine(Engine):
    """Trains with ZeRO-1 or 2: each rank has the whole network and a part of the optimizer's state."""

    def __init__(self, config: Config, settings: Settings) -> None:
        super().__init__(config)
        self.settings = settings
        self.name = f"DeepSpeed ZeRO-{settings['zero_optimization']['stage']}"

    def connect(self) -> None:
        """As in Engine."""
        cpu = devices.on_cpu(self.config)
        if cpu and torch.accelerator.is_available():
            raise UserError(
                f"run.cpu: {self.name} takes the GPUs it sees; hide them with CUDA_VISIBLE_DEVICES="
            )
        if cpu:
            _stay_on_cpu()
        devices.connect(self.config, backend="gloo" if cpu else None, cpu=False)  # True turns DeepSpeed off

    def start(self, precision: str, plan: BatchPlan) -> Accelerator:
        """As in Engine; batch, accumulation, clipping and precision come from our config."""
        reject_ddp_only_options(self.config, self.name, precision)
        filled = fill_settings(self.settings, self.config, precision, plan)
        self.accelerator = devices.build_accelerator(
            self.config,
            "fp32",
            plan.accumulation,
            kind=lambda **arguments: AutocastAccelerator(precision, **arguments),
            cpu=False,
            deepspeed_plugin=_plugin(filled),
        )
        # It warns of torch's own optimizers, which we use on purpose.
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        return self.accelerator

    def prepare(self, network: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Any]:
        """As in Engine."""
        # Shards are cut from contiguous weights; images may be channels-last all the same.
        network.to(memory_format=torch.contiguous_format)
        model, optimizer = super().prepare(network, make_optimizer)
        # DeepSpeed reads its files by unpickling whatever is in them.
        model.checkpoint_engine.load = _load_safely  # type: ignore[union-attr]
        return model, optimizer

    def clip_gradients(self, limit: float | None) -> Tensor:
        """The norm that DeepSpeed has already clipped to; infinite where it has left out the step."""
        norm = self.accelerator.clip_grad_norm_(None, limit)
        return torch.tensor(norm, device=self.accelerator.device)

    def check_checkpoint(self, made_by: str, world_size: int) -> None:
        """As in Engine; DeepSpeed has one file per rank, so their number is fixed."""
        super().check_checkpoint(made_by, world_size)
        if world_size != distributed.world_size():
            raise UserError(
                f"the checkpoint is of {world_size} processes, and {self.name} resumes only with as many"
                f" (these are {distributed.world_size()}); a new run can start from its weights with"
                " --model.pretrained"
            )


class DeepSpeedShardedEngine(DeepSpeedEngine, ShardedEngine):
    """Trains with ZeRO-3: the weights are spread over the ranks too."""

    def _whole_parameters(self) -> Iterator[Tensor]:
        import deepspeed

        for parameter in self.trained.parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                yield parameter.data


def deepspeed_engine(config: Config) -> DeepSpeedEngine:
    """The engine for the launcher's DeepSpeed settings. Raises UserError where they cannot be followed."""
    for package in ("deepspeed", "transformers"):  # accelerate's plugin imports transformers
        if find_spec(package) is None:
            raise UserError(
                f"DeepSpeed needs {package}, which is not installed: {install_command('deepspeed')}"
            )
    settings = read_settings()
    stage = settings["zero_optimization"]["stage"]
    engine = DeepSpeedShardedEngine if stage == 3 else DeepSpeedEngine
    return engine(config, settings)


def read_settings() -> Settings:
    """DeepSpeed's settings from the launcher's JSON file, or its option --zero_stage; checked."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file == "none":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        zero: Settings = {"stage": int(stage) if stage.isdecimal() else stage}
        for key in OFFLOADS:
            device = os.environ.get(f"ACCELERATE_DEEPSPEED_{key.upper()}_DEVICE", "none")
            zero |= {key: {"device": device}} if device != "none" else {}
        settings: Settings = {"zero_optimization": zero}
        file = "the launcher's DeepSpeed options"
    else:
        try:
            settings = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read DeepSpeed's settings, {file}: {error}") from None
    _check_settings(settings, file)
    return settings


def _check_settings(settings: Settings, file: str) -> None:
    zero = settings.get("zero_optimization", {})
    if zero.get("stage") not in (1, 2, 3):
        raise UserError(f"{file}: zero_optimization.stage must be 1, 2 or 3; without ZeRO take DDP")
    for key, option in DECIDED_BY_CONFIG.items():
        if key in settings and settings[key] != {"enabled": False}:
            raise UserError(f"{file}: leave out {key}; the run's config decides it ({option})")
    for key in OFFLOADS:
        if zero.get(key, {}).get("device", "none") != "none":
            raise UserError(f"{file}: zero_optimization.{key} is not supported")


def fill_settings(settings: Settings, config: Config, precision: str, plan: BatchPlan) -> Settings:
    """The settings with what our config decides. Raises UserError where they say something else."""
    decided = {
        "train_batch_size": (plan.global_batch, "train.global_batch"),
        "train_micro_batch_size_per_gpu": (plan.device_batch, "train.max_device_batch"),
        "gradient_accumulation_steps": (plan.accumulation, "train.max_device_batch"),
        "gradient_clipping": (config.train.clip_grad_norm or 0.0, "train.clip_grad_norm"),
    }
    filled = dict(settings)
    for key, (value, option) in decided.items():
        if filled.get(key, "auto") not in ("auto", value):
            raise UserError(
                f"DeepSpeed's {key} is {filled[key]}, the run's {value}: leave it out, {option} decides"
            )
        filled[key] = value
    # Not DeepSpeed's own bf16, which casts batch norm's weights but not its statistics. The modules named
    # here would have their gradients averaged in bf16; DDP averages in fp32.
    filled["torch_autocast"] = {
        "enabled": precision == "bf16",
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }
    return filled


def _plugin(settings: Settings) -> DeepSpeedPlugin:
    try:
        return DeepSpeedPlugin(hf_ds_config=settings)
    except ValueError as error:  # accelerate's own config file has settings beside the JSON file's
        raise UserError(f"the launcher's DeepSpeed options: {error}") from None


def _stay_on_cpu() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Its all-reduce through shared memory would be compiled when the run starts; gloo's is there.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _load_safely(path: str, map_location: Any = None) -> Any:
    """A file of DeepSpeed's, of which only tensors and these plain classes are taken."""
    with torch.serialization.safe_globals(_plain_classes()):
        return torch.load(path, map_location=map_location, weights_only=True)


def _plain_classes() -> list[Any]:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]
