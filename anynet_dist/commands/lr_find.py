"""Suggest a learning rate: train a few steps while it rises, and plot the loss.

`anynet lr-find CONFIG [overrides]` trains the config's network for 100 steps from its start, with the run's
own optimizer, data, loss and precision, while the learning rate rises exponentially (Smith, 2017). It ends
where the loss diverges, writes a plot and a table (CSV), and suggests the rate at which the loss falls
fastest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError

if TYPE_CHECKING:
    from anynet_dist.training.lr_finder import LrSweep


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the config, its overrides and the range."""
    add_config_arguments(parser, "[--out FILE] [--min LR] [--max LR] [--steps N]")
    sweep = parser.add_argument_group("the sweep")
    sweep.add_argument("--min", type=float, default=1e-5, metavar="LR", help="first rate (default: 1e-5)")
    sweep.add_argument("--max", type=float, default=10.0, metavar="LR", help="last rate (default: 10)")
    sweep.add_argument("--steps", type=int, default=100, metavar="N", help="optimizer steps (default: 100)")
    sweep.add_argument(
        "--out",
        type=Path,
        default=Path("lr.png"),
        metavar="FILE",
        help="the plot (default: lr.png); a table of the same name, .csv, comes with it, and both replace"
        " earlier ones",
    )


def run(args: argparse.Namespace) -> None:
    """Sweep, write plot and table, print the suggestion as the override to type."""
    from anynet_dist.config import load_config
    from anynet_dist.config.errors import located
    from anynet_dist.system.distributed import check_launcher, is_main
    from anynet_dist.system.json_lines import result_text
    from anynet_dist.system.logging import setup_logging

    check_launcher()
    setup_logging()
    _check_output(args.out)
    loaded = load_config(args.config, args.overrides)
    config = loaded.config
    setup_logging(config.log.level, json=config.log.format == "json")

    from anynet_dist.training.lr_finder import sweep_learning_rate

    with located(loaded.sources):
        sweep = sweep_learning_rate(config, args.min, args.max, args.steps)
    if is_main():
        _write(sweep, args.out, loaded.path.name)
        facts = {"suggestion": sweep.suggestion, "lowest": sweep.lowest, "diverged": sweep.diverged}
        print(result_text(_summary(sweep, args), **facts))


def _check_output(out: Path) -> None:
    """Refuse before the sweep what would be refused after it."""
    from anynet_dist.system.files import check_outputs

    if out.suffix != ".png":
        raise UserError(f"--out {out}: the plot is a PNG; give it a name that ends in .png")
    check_outputs(out, out.with_suffix(".csv"), overwrite=True)


def _write(sweep: LrSweep, out: Path, title: str) -> None:
    from anynet_dist.system.files import write_text
    from anynet_dist.training.lr_finder import plot_sweep

    rows = zip(sweep.rates, sweep.losses, sweep.smoothed, strict=True)
    lines = ["lr,loss,smoothed_loss", *(f"{rate:.6g},{loss:.6g},{mean:.6g}" for rate, loss, mean in rows)]
    write_text(out.with_suffix(".csv"), "\n".join(lines) + "\n")
    plot_sweep(sweep, title, out)


def _summary(sweep: LrSweep, args: argparse.Namespace) -> str:
    end = (
        f"stopped where the loss diverged, at {sweep.rates[-1]:.3g}" if sweep.diverged else "went to its end"
    )
    lines = [f"{len(sweep.rates)} steps from a learning rate of {args.min:g}: the sweep {end}"]
    lines.append(f"plot: {args.out}, table: {args.out.with_suffix('.csv')}")
    if sweep.suggestion is None:
        lines.append("no suggestion: the loss never falls in this range; try other --min and --max")
    else:
        lines.append(f"the loss is lowest at {sweep.lowest:.2g} and falls fastest at {sweep.suggestion:.2g}")
        lines.append(f"suggestion: --optim.lr {sweep.suggestion:.2g}")
    return "\n".join(lines)
