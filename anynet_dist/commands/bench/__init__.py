"""Measure on this machine what the README claims, or compute what many GPUs need."""

from __future__ import annotations

import argparse

from anynet_dist.commands.bench import checkpoint, fit, loader, model, peers, scaling, train

SUBJECTS = {
    "model": model,
    "train": train,
    "peers": peers,
    "loader": loader,
    "fit": fit,
    "checkpoint": checkpoint,
    "scaling": scaling,
}
"""What is measured, each by a module with `configure(parser)` and `run(args)`; its docstring is the help."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench`."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for name, module in SUBJECTS.items():
        text = (module.__doc__ or "").strip()
        summary = text.partition("\n")[0].rstrip(".")
        subject = subjects.add_parser(name, help=summary, description=text)
        module.configure(subject)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench SUBJECT`; raises UserError."""
    SUBJECTS[args.subject].run(args)
