"""Engines beside DDP: what they refuse, and FSDP2 for real, on CPUs. DeepSpeed's runs: tests/launch."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from anynet_dist.config import Config, load_config
from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed import ddp, deepspeed, engine
from tests.conftest import PATIENCE

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")

Launch = Callable[..., subprocess.CompletedProcess[str]]
PLAN = BatchPlan(global_batch=24, world_size=2, accumulation=3)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], None]:
    """Lets the launcher name a DeepSpeed file with these settings."""

    def write(settings: dict) -> None:
        (tmp_path / "ds.json").write_text(json.dumps(settings))
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))

    return write


def config(blobs_config: Path, *overrides: str) -> Config:
    return load_config(blobs_config, overrides).config


def test_without_a_launcher_it_is_ddp(blobs_config: Path) -> None:
    chosen = engine.choose_engine(config(blobs_config))
    assert (type(chosen), chosen.name) == (ddp.Engine, "DDP")


@needs_deepspeed
def test_our_config_fills_deepspeeds_settings(blobs_config: Path) -> None:
    given = {"zero_optimization": {"stage": 1}, "gradient_clipping": "auto"}
    clipped = config(blobs_config, "--train.clip_grad_norm", "2")
    filled = deepspeed.fill_settings(given, clipped, "bf16", PLAN)
    assert filled["train_batch_size"] == 24
    assert filled["train_micro_batch_size_per_gpu"] == 4
    assert filled["gradient_accumulation_steps"] == 3
    assert filled["gradient_clipping"] == 2
    assert filled["torch_autocast"]["enabled"]
    assert "bf16" not in filled
    assert not deepspeed.fill_settings(given, clipped, "fp32", PLAN)["torch_autocast"]["enabled"]
    unclipped = deepspeed.fill_settings(given, config(blobs_config), "fp32", PLAN)
    assert unclipped["gradient_clipping"] == 0, (
        "DeepSpeed and accelerate would clip to 1 unless told otherwise"
    )


@needs_deepspeed
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_optimization": {"stage": 0}}, r"ds\.json: zero_optimization\.stage must be 1, 2 or 3"),
        (
            {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}},
            r"leave out bf16; .*train\.precision",
        ),
        (
            {"zero_optimization": {"stage": 1}, "optimizer": {"type": "Adam"}},
            r"leave out optimizer; .*\(optim\)",
        ),
        ({"zero_optimization": {"stage": 1}, "scheduler": {}}, r"leave out scheduler; .*\(schedule\)"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            r"offload_optimizer is not supported",
        ),
    ],
)
def test_settings_that_the_config_decides_are_refused(
    blobs_config: Path, settings_file: Callable[[dict], None], settings: dict, message: str
) -> None:
    settings_file(settings)
    with pytest.raises(UserError, match=message):
        engine.choose_engine(config(blobs_config))


@needs_deepspeed
def test_settings_that_contradict_the_config_are_refused(blobs_config: Path) -> None:
    given = {"zero_optimization": {"stage": 1}, "gradient_clipping": 1.0}
    with pytest.raises(
        UserError, match=r"gradient_clipping is 1\.0, the run's 0\.0: .*train\.clip_grad_norm"
    ):
        deepspeed.fill_settings(given, config(blobs_config), "fp32", PLAN)


@needs_deepspeed
@pytest.mark.parametrize(
    "options",
    [
        ("--train.precision", "fp16"),
        ("--train.compile", "true"),
        ("--train.activation_checkpointing", "stage1"),
    ],
)
def test_what_only_ddp_does_is_refused(
    blobs_config: Path, settings_file: Callable[[dict], None], options: tuple[str, str]
) -> None:
    settings_file({"zero_optimization": {"stage": 2}})
    chosen = engine.choose_engine(config(blobs_config, *options))
    precision = options[1] if "precision" in options[0] else "fp32"
    with pytest.raises(UserError, match=rf"{options[0].removeprefix('--')}: .*DeepSpeed ZeRO-2"):
        chosen.start(precision, PLAN)


@needs_deepspeed
def test_a_checkpoint_is_resumed_by_its_own_engine_and_number_of_processes(
    blobs_config: Path, settings_file: Callable[[dict], None]
) -> None:
    settings_file({"zero_optimization": {"stage": 1}})
    zero1 = engine.choose_engine(config(blobs_config))
    zero1.check_checkpoint("DeepSpeed ZeRO-1", world_size=1)
    with pytest.raises(UserError, match=r"of 8 processes, and DeepSpeed ZeRO-1 resumes only with as many"):
        zero1.check_checkpoint("DeepSpeed ZeRO-1", world_size=8)
    with pytest.raises(UserError, match="optimizer state is DDP's and does not fit DeepSpeed ZeRO-1"):
        zero1.check_checkpoint("DDP", world_size=1)


def test_missing_deepspeed_names_the_extra(
    blobs_config: Path, settings_file: Callable[[dict], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file({"zero_optimization": {"stage": 1}})
    monkeypatch.setattr(deepspeed, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs deepspeed, which is not installed: .*pip install .*\[deepspeed\]"
    ):
        engine.choose_engine(config(blobs_config))


def test_fsdp_version_1_is_refused(blobs_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="set fsdp_version: 2"):
        engine.choose_engine(config(blobs_config))


@pytest.mark.slow
@needs_deepspeed
def test_deepspeeds_files_are_read_without_running_what_is_in_them(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"optimizer": Harmful()}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        deepspeed._load_safely(str(tmp_path / "state.pt"))
    assert not (tmp_path / "ran").exists()


def test_networks_share_buffers() -> None:
    source, target = (nn.Sequential(nn.Sequential(nn.BatchNorm2d(3))) for _ in range(2))
    ddp.share_buffers(source, target)
    source(torch.randn(4, 3, 2, 2))
    assert torch.equal(target.get_buffer("0.0.running_mean"), source.get_buffer("0.0.running_mean"))
    assert target.get_buffer("0.0.num_batches_tracked") == 1


@pytest.mark.multiprocess
@pytest.mark.slow
def test_fsdp2_trains_resumes_and_saves_what_ddp_does(
    blobs_config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: tuple[str, ...] = (
        "--schedule.name",
        "constant",
        "--train.clip_grad_norm",
        "1",
        "--ema.decay",
        "0.9",
    )
    options += ("--train.max_device_batch", "6", "--train.memory_format", "channels_last")
    options += ("--data.loader", "device")
    some = ("--train.activation_checkpointing", "stage1")  # other activations are checkpointed in each
    launch(
        *("train", blobs_config, *options, *some, "--train.max_steps", "4"),
        *("--run.dir", tmp_path / "ddp"),
        processes=2,
    )
    settings = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
        "FSDP_MIN_NUM_PARAMS": "500",
        "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).with_name("fsdp_on_cpu.py")
    for steps in ("2", "4"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += [str(script), "train", str(blobs_config), *options]
        command += ["--train.max_steps", steps, "--resume", "auto", "--train.activation_checkpointing"]
        done = subprocess.run(
            command,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search("engine +FSDP2: as the launcher asks", done.stdout)
    assert "epoch 0, step 2" in done.stdout
    last = tmp_path / "run" / "checkpoints" / "last"
    for name in ("model.safetensors", "ema.safetensors"):
        ddp, sharded = (load_file(folder / name) for folder in (tmp_path / "ddp/checkpoints/last", last))
        assert ddp.keys() == sharded.keys()
        for key, tensor in ddp.items():
            assert torch.allclose(tensor.float(), sharded[key].float(), atol=2e-6), (name, key)
    assert list((last / "optimizer_0").glob("*.distcp")), "each rank writes its share"


def test_engines_that_cut_weights_take_elementwise_optimizers_only(blobs_config: Path) -> None:
    for name in ("sgd", "adamw", "torch:RAdam"):
        ddp.reject_ddp_only_options(config(blobs_config, "--optim.name", name), "FSDP2", "fp32")
    for name in ("timm:lamb", "torch:Adafactor"):
        with pytest.raises(UserError, match=rf"optim\.name: FSDP2 cuts weights.*\(got '{name}'\)"):
            ddp.reject_ddp_only_options(config(blobs_config, "--optim.name", name), "FSDP2", "fp32")
