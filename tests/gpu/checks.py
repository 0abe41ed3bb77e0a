"""Checks of docs/gpu-checks.md on the GPUs of this machine: `launch/gpu_checks.sh` runs this.

Each check runs the commands that a user would type and reads figures from what they print or write. The
results are written after each check, so that a machine that is taken away leaves those that were done.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anynet_dist.runs.metrics_log import read_records
from anynet_dist.system.environment import package_versions
from anynet_dist.system.files import write_json

Figures = dict[str, Any]
ANYNET = [sys.executable, "-m", "anynet_dist"]
NETWORKS = (("resnet50", 256), ("regnetx_3_2gf", 256), ("regnety_4gf", 128))
STEP_OPTIONS = (
    *("--precision", "bf16", "--memory-format", "channels_last", "--pass", "train", "--peer", "timm"),
    *("--compile", "off", "full", "reduce-overhead"),
)
SAVING_OPTIONS = ("--model", "regnetx_3_2gf", "--ema")
REGNET = "configs/imagenet/regnetx_400mf.yaml"
ENGINES = ("one_machine", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "fsdp2")


class Machine:
    """The GPUs, where data and runs go, and the ways to start something on them."""

    def __init__(self, work: Path, images: Path | None, cifar: Path | None) -> None:
        self.work, self.images, self.cifar = work, images, cifar
        self.gpus = torch.cuda.device_count()

    def command(self, *words: str | Path, limit: float = 600, **environment: str) -> str:
        """What a command prints; raises RuntimeError with its last lines where it fails."""
        done = subprocess.run(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            env=os.environ | environment,
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {' / '.join(done.stdout.splitlines()[-4:])}")
        return done.stdout

    def data(self, name: str) -> Sequence[str]:
        """The options for the `.beton` files of `photographs` or `cifar10`, which are built where missing."""
        folder = self.work / "data" / name
        if not folder.exists():
            root = self.images if name == "photographs" else self.cifar
            if root is None:
                root = self.work / "images"
                self.command(sys.executable, "examples/make_images.py", root, "2000")
            split = [] if (root / "train").is_dir() else ["--val-fraction", "0.05"]
            mode = ["--write-mode", "jpg" if name == "photographs" else "raw"]
            self.command(
                *ANYNET, "data", "build", "imagefolder", "--root", root, "--out", folder, *split, *mode
            )
        test = "test" if (folder / "test.beton").exists() else "val"
        return ["--data.train", str(folder / "train.beton"), f"--data.{test}", str(folder / f"{test}.beton")]

    def train(self, name: str, config: str, *options: str, launcher: str | None = None) -> Figures:
        """Train, and read the last record: loss, images/s, data wait, memory; the losses of all records."""
        run = self.work / "runs" / name
        start = [sys.executable, "-m", "anynet_dist"]
        if launcher:
            start = [
                sys.executable,
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                f"launch/{launcher}.yaml",
            ]
            start += ["--num_processes", str(self.gpus), "-m", "anynet_dist"]
        begun = time.monotonic()
        self.command(*start, "train", config, "--run.dir", run, "--run.overwrite", "true", *options)
        records = read_records(run / "metrics.jsonl")
        steps = [record for record in records if "train/loss" in record]
        tested = [record["test/top1"] for record in records if "test/top1" in record]
        names = ("images_per_second", "data_wait", "peak_memory_gib", "mfu", "skipped_steps")
        figures = {name: steps[-1][name] for name in names if steps[-1].get(name) is not None}
        figures |= {"loss": steps[-1]["train/loss"], "seconds": time.monotonic() - begun}
        figures |= {"test_top1": tested[-1]} if tested else {}
        return figures | {"losses": [record["train/loss"] for record in steps]}


def check_tests(machine: Machine) -> Figures:
    """The tests of tests/gpu: all pass."""
    done = machine.command(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"), limit=900
    )
    return {"outcome": done.strip().splitlines()[-1]}


def check_doctor(machine: Machine) -> Figures:
    """`anynet doctor`: each GPU with driver, CUDA and NCCL; with several GPUs NCCL's bandwidth."""
    figures = {"outcome": machine.command(*ANYNET, "doctor").strip().splitlines()[-1]}
    if machine.gpus > 1:
        launch = ["-m", "accelerate.commands.launch", "--config_file", "launch/one_machine.yaml"]
        launch += ["--num_processes", str(machine.gpus), "-m", "anynet_dist", "doctor", "--distributed"]
        figures["nccl"] = machine.command(sys.executable, *launch).strip()[-600:]
    return figures


def check_steps(machine: Machine) -> Figures:
    """One training step on random images: eager, compiled, as CUDA graphs; timm's network beside it."""
    figures: Figures = {}
    for name, batch in NETWORKS:
        out = machine.work / f"{name}.json"
        machine.command(*ANYNET, "bench", "model", name, "--batch", str(batch), *STEP_OPTIONS, "--json", out)
        for row in json.loads(out.read_text())["rows"]:
            shown = ("images_per_second", "mfu", "bandwidth_share", "peak_memory_gib", "first_step_seconds")
            figures[f"{name} {row['network']} {row['compile']}"] = {key: row[key] for key in shown}
    return figures


def check_feed(machine: Machine) -> Figures:
    """RegNetX-400MF fed with JPEG: each loader, each way to compile, half precision."""
    common = [*machine.data("photographs"), "--train.max_steps", "300", "--train.log_every", "50"]
    common += ["--train.global_batch", "512", "--schedule.warmup_epochs", "0.5", "--optim.lr", "0.1"]
    common += ["--tracking.report", "false", "--eval.every", "1000"]
    runs = {
        "ffcv bf16": ("ffcv", "bf16", "off"),
        "torch bf16": ("torch", "bf16", "off"),
        "ffcv fp16": ("ffcv", "fp16", "off"),
        "ffcv bf16 compiled": ("ffcv", "bf16", "full"),
        "ffcv bf16 graphs": ("ffcv", "bf16", "reduce-overhead"),
    }
    figures: Figures = {}
    for name, (loader, precision, mode) in runs.items():
        options = ["--data.loader", loader, "--train.precision", precision, "--train.compile", mode]
        figures[name] = machine.train(name.replace(" ", "_"), REGNET, *common, *options)
    shown = machine.command(*ANYNET, "models", "show", "regnetx_400mf", "--batch", "512", "--json")
    return figures | {"estimate": json.loads(shown).get("memory")}


def check_cifar(machine: Machine) -> Figures:
    """CIFAR-10 kept on the GPU, and fed by FFCV: 87.8 % test top-1 or more."""
    if machine.cifar is None:
        return {"outcome": "not run: needs --cifar FOLDER"}
    options = [*machine.data("cifar10"), "--tracking.report", "false"]
    config = "configs/cifar10/anynet_1m.yaml"
    return {
        name: machine.train(f"cifar_{name}", config, *options, "--data.loader", name)
        for name in ("device", "ffcv")
    }


def check_saving(machine: Machine) -> Figures:
    """How long a checkpoint keeps the steps waiting."""
    out = machine.work / "checkpoint.json"
    machine.command(*ANYNET, "bench", "checkpoint", *SAVING_OPTIONS, "--json", out)
    shown = ("block_ms", "total_ms", "megabytes")
    return {row["way"]: {key: row[key] for key in shown} for row in json.loads(out.read_text())["rows"]}


def check_engines(machine: Machine) -> Figures:
    """DDP, DeepSpeed and FSDP2 on all GPUs: losses of 50 steps within 1 % of DDP's."""
    options = [*machine.data("photographs"), "--train.max_steps", "60", "--train.log_every", "1"]
    options += ["--train.global_batch", "128", "--optim.lr", "0.02", "--schedule.warmup_epochs", "0.1"]
    options += ["--train.precision", "bf16", "--train.deterministic", "true", "--data.loader", "ffcv"]
    options += ["--tracking.report", "false", "--eval.every", "1000"]
    figures: Figures = {name: machine.train(name, REGNET, *options, launcher=name) for name in ENGINES}
    expected = figures[ENGINES[0]]["losses"][:50]
    for name in ENGINES[1:]:
        pairs = zip(figures[name]["losses"], expected, strict=False)
        figures[name]["largest_difference"] = max(abs(loss / other - 1) for loss, other in pairs)
    return figures


def check_predict(machine: Machine) -> Figures:
    """A network gives the same classes on the GPU and on the CPU."""
    run = machine.work / "runs" / "demo"
    if not run.exists():
        machine.command(*ANYNET, "data", "build", "digits", "--out", machine.work / "data" / "digits")
        data = [f"--data.{key}={machine.work}/data/digits/{key}.beton" for key in ("train", "val")]
        machine.command(*ANYNET, "train", "configs/digits/demo.yaml", "--run.dir", run, *data)
    machine.command(sys.executable, "examples/make_images.py", machine.work / "few", "20")
    words: list[str | Path] = [*ANYNET, "predict", run, machine.work / "few", "--json"]
    answers = [machine.command(*words), machine.command(*words, CUDA_VISIBLE_DEVICES="")]
    first, second = (
        [entry["predictions"][0]["name"] for entry in json.loads(_json(text))] for text in answers
    )
    return {"same_class": sum(a == b for a, b in zip(first, second, strict=True)), "images": len(first)}


def _json(printed: str) -> str:
    """The JSON list at the end of what a command printed."""
    return re.split(r"^(?=\[$)", printed, maxsplit=1, flags=re.M)[-1]


CHECKS: dict[str, Callable[[Machine], Figures]] = {
    "tests": check_tests,
    "doctor": check_doctor,
    "steps": check_steps,
    "feed": check_feed,
    "cifar": check_cifar,
    "saving": check_saving,
    "engines": check_engines,
    "predict": check_predict,
}


def run_checks(names: Sequence[str], machine: Machine, out: Path) -> Figures:
    """Run checks by name, one after the other, and write their results to `out` after each."""
    results: Figures = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        begun = time.monotonic()
        try:
            figures = CHECKS[name](machine)
        except (RuntimeError, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as error:
            figures = {"failed": str(error)}
        results[name] = figures | {"check_seconds": round(time.monotonic() - begun, 1)}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, results)
        print(f"{name}: {json.dumps(results[name])[:1500]}", flush=True)
    return results


def table_of(results: Figures) -> Table:
    """The results as a table: a row for each check that holds figures, or for each part of it."""
    table = Table("check", "figures")
    for name, figures in results.items():
        if not isinstance(figures, dict):
            continue
        parts = {key: value for key, value in figures.items() if isinstance(value, dict)}
        plain = {key: value for key, value in figures.items() if key not in parts}
        for part, values in {"": plain, **parts}.items():
            shown = ", ".join(f"{key} {_short(value)}" for key, value in values.items() if key != "losses")
            table.add_row(f"{name} {part}".strip(), shown[:400])
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(prog="launch/gpu_checks.sh", description=__doc__)
    parser.add_argument("--images", type=Path, help="photographs: CLASS/IMAGE (default: made from two)")
    parser.add_argument(
        "--cifar", type=Path, help="CIFAR-10 as folders: train/CLASS/IMAGE and test/CLASS/IMAGE"
    )
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="CHECK")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/gpu_checks"), help="data and runs (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/gpu"), help="results (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    args = parser.parse_args()
    if args.list:
        for name, check in CHECKS.items():
            print(f"{name:8} {(check.__doc__ or '').strip().splitlines()[0]}")
        return 0
    if not torch.cuda.is_available():
        print("gpu_checks.sh: no GPU here", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name(0)
    out = args.out / f"{re.sub('[^A-Za-z0-9]+', '_', device)}.json"
    results = run_checks(args.only, Machine(args.work.resolve(), args.images, args.cifar), out)
    write_json(
        out, {"device": device, "gpus": torch.cuda.device_count(), "versions": package_versions()} | results
    )
    Console(width=160).print(table_of(results))
    return 1 if any(isinstance(value, dict) and "failed" in value for value in results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
