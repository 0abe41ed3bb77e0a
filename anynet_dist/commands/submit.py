"""Hand a run, or a sweep of runs, in to SLURM.

`anynet submit CONFIG --site slurm/site.sh --nodes 2 [overrides]` checks the config, takes the template of
slurm/ that fits, submits it with sbatch, and prints the job's number and the run folder. --dry-run prints the
command and submits nothing. The job is stopped before its time limit, or when others have precedence, queued
again and resumed by itself.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import program

if TYPE_CHECKING:
    from anynet_dist.cluster.submission import Job


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet submit`."""
    add_config_arguments(parser)
    parser.usage = "%(prog)s CONFIG --site SITE [options] [--SECTION.OPTION VALUE ...]"
    parser.add_argument(
        "--site", type=Path, required=True, help="settings of your cluster, see slurm/site.example.sh"
    )
    parser.add_argument("--nodes", type=_count, default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--gpus-per-node", type=_count, metavar="N", help="default: the site's")
    parser.add_argument("--time", metavar="D-HH:MM:SS", help="time limit of one start; default: the site's")
    parser.add_argument(
        "--launcher",
        choices=("node", "none"),
        default="node",
        help="node: torchrun or accelerate on each node; none: one task a GPU (default: %(default)s)",
    )
    parser.add_argument("--members", type=Path, metavar="FILE", help="a sweep: one line of options a member")
    parser.add_argument("--at-once", type=_count, metavar="N", help="members of a sweep that run at a time")
    parser.add_argument(
        "--overwrite", action="store_true", help="with --members: replace those of an earlier submission"
    )
    parser.add_argument("--templates", type=Path, metavar="FOLDER", help="default: those of anynet_dist")
    parser.add_argument("--dry-run", action="store_true", help="print the command and do nothing")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, not '{text}'")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Check everything, submit, and say what comes next."""
    from anynet_dist.cluster.site import read_site
    from anynet_dist.cluster.submission import TEMPLATES, check_members, prepare, submit

    job = _job(args)
    check_members(job, args.overwrite)
    submission = prepare(job, read_site(args.site), args.site, args.templates or TEMPLATES)
    if args.dry_run:
        print(submission)
        return
    number = submit(job, submission)
    folder = "sweep folder" if job.members else "run folder"
    status = f"{program('anynet')} status {shlex.quote(str(job.run))}"
    print(f"job {number}\n{folder}: {job.run}\nlog: {job.run / 'slurm'}\nnext: {status}")


def _job(args: argparse.Namespace) -> Job:
    """The job, with its config checked, and the members' configs too."""
    from dataclasses import replace

    from anynet_dist.cluster.submission import Job
    from anynet_dist.config import load_config
    from anynet_dist.system.files import require_regular_file
    from anynet_dist.training.run_folder import check_folder, folder_of

    if args.members and (args.nodes > 1 or args.launcher == "none"):
        raise UserError("a member of a sweep (--members) runs on one node with a launcher")
    for option, given in (("--at-once", args.at_once), ("--overwrite", args.overwrite)):
        if given and not args.members:
            raise UserError(f"{option} is for sweeps: it needs --members")
    require_regular_file(args.config)  # also what the shell hands over, for the job cannot read it
    loaded = load_config(args.config, args.overrides)
    config = loaded.config
    name = config.run.name or loaded.path.stem
    folder = folder_of(replace(config, run=replace(config.run, name=name)))
    if args.members:
        _check_members(args)
    else:
        check_folder(folder, config)
    return Job(
        config=Path(args.config),
        run=folder.path,
        name=name,
        overrides=tuple(args.overrides),
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        time=args.time or "",
        tasks=args.launcher == "none",
        members=args.members,
        at_once=args.at_once,
    )


def _check_members(args: argparse.Namespace) -> None:
    """Raise UserError that names the member whose line makes no config."""
    import shlex

    from anynet_dist.cluster.submission import members_of
    from anynet_dist.config import load_config

    for number, line in enumerate(members_of(args.members), start=1):
        try:
            words = shlex.split(line)
            config = args.config if words[0].startswith("-") else words.pop(0)
            load_config(config, [*args.overrides, *words])
        except ValueError as error:
            raise UserError(f"{args.members}, member {number}: {error}") from None
