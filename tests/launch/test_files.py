"""The files of launch/, each by the command of launch/README.md, with two CPU processes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from socket import socket

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from anynet_dist.runs.metrics_log import read_records
from tests.conftest import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "launch" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
FILES = sorted((ROOT / "launch").glob("*.yaml"))
# Batch norm and the order of images are the same for two processes and for one that accumulates two.
OPTIONS: tuple[str, ...] = (
    "--train.max_steps",
    "4",
    "--train.clip_grad_norm",
    "1",
    "--schedule.name",
    "constant",
)
OPTIONS += ("--ema.decay", "0.9", "--ema.every", "2", "--data.loader", "device")
LAUNCHED = "accelerate launch --config_file launch/"

pytestmark = pytest.mark.xdist_group("launch")  # they share the run that the others are compared with

Process = subprocess.Popen[str]


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def of_file(name: str) -> list[str]:
    return [line for line in COMMANDS if line.startswith(f"{LAUNCHED}{name} ")]


def on_two_processes(command: str, config: Path, run: Path, *options: str) -> list[str]:
    """The README's command with what a test must change: number of processes, address, config, run folder."""
    words = shlex.split(re.sub(r"--num_processes \d+", "--num_processes 2", command))
    words = ["127.0.0.1" if word == "10.0.0.1" else word for word in words]
    words = [str(config) if word.startswith("configs/") else word for word in words]
    return [*words, "--run.dir", str(run), *OPTIONS, *options]


def start(words: list[str]) -> Process:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / words[0]), *words[1:]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that no rank outlives its launcher
    )


def output(process: Process, code: int = 0) -> str:
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == code, text
    return text


def train(command: str, config: Path, run: Path, *options: str, code: int = 0) -> str:
    return output(start(on_two_processes(command, config, run, *options)), code)


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors"):
        first, second = (load_file(run / "checkpoints" / "last" / name) for run in (one, other))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            assert torch.allclose(tensor.float(), second[key].float(), atol=2e-6), (name, key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch")


@pytest.fixture
def ddp(blobs_config: Path, folder: Path) -> Path:
    """The run of launch/two_processes.yaml: what the others are to give too."""
    run = folder / "ddp"
    if not run.exists():
        shown = train(of_file("two_processes.yaml")[0], blobs_config, run)
        assert "world size 2 (cpu, gloo)" in shown
    return run


def test_every_file_has_its_command_and_every_command_a_test() -> None:
    assert {line.split()[3] for line in COMMANDS} == {f"launch/{file.name}" for file in FILES}
    assert all(line.startswith(LAUNCHED) for line in COMMANDS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_accelerate_reads_each_file_and_its_head_says_when_to_use_it(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# ")
    assert f"accelerate launch --config_file launch/{file.name}" in text
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    json_file = config.deepspeed_config.get("deepspeed_config_file")
    if json_file:
        assert (ROOT / json_file).is_file()


def test_fsdp_settings_are_ones_that_accelerate_knows() -> None:
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    settings = load_config_from_file(str(ROOT / "launch" / "fsdp2.yaml")).fsdp_config
    assert settings["fsdp_version"] == 2
    assert settings.keys() <= known


@pytest.mark.multiprocess
@pytest.mark.slow
def test_one_gpu_trains_on_the_cpu_where_there_is_none(ddp: Path, blobs_config: Path, folder: Path) -> None:
    # Two accumulated batches stand for the two processes.
    words = on_two_processes(of_file("one_gpu.yaml")[0], blobs_config, folder / "one")
    shown = output(start([*words, "--train.max_device_batch", "12"]))
    assert "world size 1 (cpu)" in shown


@pytest.mark.multiprocess
@pytest.mark.slow
def test_one_machine_trains_with_ddp(ddp: Path, blobs_config: Path, folder: Path) -> None:
    assert "world size 2 (cpu, gloo)" in train(
        of_file("one_machine.yaml")[0], blobs_config, folder / "machine"
    )
    assert_same_weights(ddp, folder / "machine")


@pytest.mark.multiprocess
@pytest.mark.slow
def test_machines_find_each_other(ddp: Path, blobs_config: Path, folder: Path) -> None:
    port = str(free_port())
    processes = []
    for command in of_file("machines.yaml"):
        words = on_two_processes(command, blobs_config, folder / "machines")
        words[words.index("-m") : words.index("-m")] = ["--main_process_port", port]
        processes.append(start(words))
    first, second = [output(process) for process in processes]
    assert "world size 2 (cpu, gloo on 2 machines)" in first
    assert "test top-1" not in second
    assert_same_weights(ddp, folder / "machines")


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_gives_the_weights_that_ddp_gives(
    ddp: Path, blobs_config: Path, folder: Path, stage: int
) -> None:
    command, run = of_file(f"deepspeed_zero{stage}.yaml")[0], folder / f"zero{stage}"
    if stage == 3:
        train(command, blobs_config, run, "--train.max_steps", "2")
    shown = train(command, blobs_config, run, "--resume", "auto")
    assert re.search(f"engine +DeepSpeed ZeRO-{stage}: as the launcher asks", shown)
    assert ("epoch 0, step 2" in shown) == (stage == 3)
    assert "[WARNING]" not in shown.split("anynet 0.")[1], "DeepSpeed's own log stays out of ours"
    assert_same_weights(ddp, run)
    assert len(list((run / "checkpoints" / "last" / "pytorch_model").glob("zero_pp_rank_*optim*"))) == 2


@pytest.mark.multiprocess
@pytest.mark.slow
def test_deepspeed_leaves_out_the_steps_that_ddp_does(
    blobs_config: Path, folder: Path, bad_stem: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD_STEPS", "2")
    for name in ("two_processes", "deepspeed_zero3"):
        run = folder / f"{name}_bad"
        train(of_file(f"{name}.yaml")[0], blobs_config, run, *bad_stem)
        records = [r for r in read_records(run / "metrics.jsonl") if "train/loss" in r]
        assert (records[-1]["step"], records[-1]["bad_steps"]) == (4, 1)
        assert_same_weights(folder / "two_processes_bad", run)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_checkpoint_of_deepspeed_is_not_resumed_with_ddp(blobs_config: Path, folder: Path) -> None:
    run = folder / "zero1"
    if not run.exists():
        train(of_file("deepspeed_zero1.yaml")[0], blobs_config, run)
    refused = train(of_file("two_processes.yaml")[0], blobs_config, run, "--resume", "auto", code=1)
    assert "optimizer state is DeepSpeed ZeRO-1's and does not fit DDP" in refused


@pytest.mark.multiprocess
@pytest.mark.slow
def test_fsdp2_says_that_it_becomes_ddp_without_gpus(ddp: Path, blobs_config: Path, folder: Path) -> None:
    shown = train(of_file("fsdp2.yaml")[0], blobs_config, folder / "fsdp2")
    assert shown.count("FSDP2 needs a GPU for each process: without, accelerate trains with DDP") == 1
    assert_same_weights(ddp, folder / "fsdp2")


def test_deepspeed_json_files_leave_to_the_config_what_is_its_own() -> None:
    from anynet_dist.training.distributed.deepspeed import DECIDED_BY_CONFIG

    for file in (ROOT / "launch").glob("*.json"):
        assert not DECIDED_BY_CONFIG.keys() & json.loads(file.read_text()).keys()
