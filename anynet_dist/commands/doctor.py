"""Check this machine, or all ranks together, before a run.

`anynet doctor` looks at versions, GPUs, FFCV, disk, shared memory, limits, the launcher's and SLURM's
variables and the W&B login. With `--distributed` behind accelerate launch, torchrun or srun, all ranks meet
too: an all-reduce with its bandwidth, equal versions, clocks. Exit code 0: nothing in the way; 1: problems,
each shown with its remedy. Warnings alone do not fail. `anynet doctor --fix ffcv` first builds FFCV and
installs it into this environment.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet doctor`."""
    parser.add_argument("--distributed", action="store_true", help="check all ranks together")
    parser.add_argument("--fix", choices=("ffcv",), help="install what is missing into this environment")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs"), help="where run folders will lie (default: %(default)s)"
    )
    parser.add_argument("--cpu", action="store_true", help="no GPU is wanted")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long ranks wait for each other (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Check and report; ends the process with 1 where there are problems."""
    from anynet_dist.doctor.report import Options, examine

    if args.fix == "ffcv":
        from anynet_dist.doctor.install_ffcv import install_ffcv

        install_ffcv(lambda line: print(line, flush=True))
    options = Options(
        distributed=args.distributed, run_dir=args.run_dir, cpu=args.cpu, timeout_s=args.timeout
    )
    if examine(options, lambda line: print(line, flush=True)):
        sys.exit(1)
