"""Train the same configs with two checkouts and compare their model.safetensors bit by bit.

    .venv/bin/python tests/compare_weights.py OLD_CHECKOUT NEW_CHECKOUT [--only ffcv]

Each loader in one and two processes: a plain run, and one with a moving average, mixup, CutMix, accumulation
and a resume. Trains on scikit-learn's digits; for changes that must not alter what a run computes. Metadata
is compared in the order of its names: the safetensors library writes it in an arbitrary one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

PLAIN = """
model: {num_blocks_per_stage: [1, 1], num_channels: [8, 16, 32], group_width: 8, stem: conv3x3_s2}
data: {train: DATA/train.beton, test: DATA/val.beton, val_fraction: 0.2}
train: {epochs: 2, global_batch: 64, precision: fp32, memory_format: contiguous, log_every: 5}
optim: {lr: 0.1}
"""
EVERYTHING = """
base: plain.yaml
data:
  augment: {flip: true, translate: 1, cutout: 2, mixup: 0.2, cutmix: 1.0}
train: {max_device_batch: 16, clip_grad_norm: 1.0, label_smoothing: 0.1}
ema: {decay: 0.9}
eval: {precise_bn: 256, flip: true}
"""


def anynet(checkout: Path, arguments: Sequence[str], processes: int = 1) -> None:
    """Run a command of the checkout; its output is shown where it fails."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "anynet_dist", *arguments],
        env=environment,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{' '.join(arguments)} failed in {checkout}:\n{result.stdout}\n{result.stderr}")


def digest(checkout: Path, folder: Path, loader: str, processes: int, everything: bool) -> str:
    """The SHA-256 of the weights that a run of the checkout ends with."""
    run = folder / f"{loader}_{processes}_{everything}"
    config = folder / ("everything.yaml" if everything else "plain.yaml")
    arguments = ["train", str(config), "--data.loader", loader, "--run.dir", str(run)]
    if everything:
        anynet(checkout, [*arguments, "--train.max_steps", "13", "--checkpoint.every", "5 steps"], processes)
        arguments += ["--run.resume", "auto"]
    anynet(checkout, arguments, processes)
    with safe_open(run / "model.safetensors", "numpy") as file:
        found = hashlib.sha256(repr(sorted(file.metadata().items())).encode())
        for name in sorted(file.keys()):
            found.update(name.encode() + file.get_tensor(name).tobytes())
    return found.hexdigest()


def main() -> int:
    """Compare, print a line a case, and return the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkouts", nargs=2, type=lambda path: Path(path).resolve())
    parser.add_argument("--only", choices=("ffcv", "torch", "device"), help="compare this loader alone")
    options = parser.parse_args()
    differences = 0
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, name) for name in ("old", "new")]
        for folder in folders:
            folder.mkdir()
            anynet(options.checkouts[0], ["data", "build", "digits", "--out", str(folder / "digits")])
            (folder / "plain.yaml").write_text(PLAIN.replace("DATA", str(folder / "digits")))
            (folder / "everything.yaml").write_text(EVERYTHING)
        for loader in [options.only] if options.only else ["ffcv", "torch", "device"]:
            for processes in (1, 2):
                for everything in (False, True):
                    pairs = zip(options.checkouts, folders, strict=True)
                    old, new = (digest(*pair, loader, processes, everything) for pair in pairs)
                    case = f"{loader}, {processes} process(es), {'everything' if everything else 'plain'}"
                    differences += old != new
                    print(f"{'same' if old == new else 'DIFFERENT'}  {case}: {old[:16]} {new[:16]}")
    return differences


if __name__ == "__main__":
    sys.exit(main())
