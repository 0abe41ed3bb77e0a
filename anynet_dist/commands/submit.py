"""Submit a run, or a sweep of runs, to SLURM.

`anynet submit CONFIG --site slurm/site.sh --nodes 2 [overrides]` checks the config, takes the template of
slurm/ that fits, submits it with sbatch, and prints the job's number and the run folder. --dry-run prints the
command and submits nothing. The job is stopped before its time limit, or when others have precedence, queued
again and resumed by itself.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anynet_dist.cluster.arguments import add_request_arguments, count, request_of
from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import program

if TYPE_CHECKING:
    from anynet_dist.cluster.site import Site
    from anynet_dist.cluster.submission import Job
    from anynet_dist.config.load import LoadedConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet submit`."""
    add_config_arguments(parser)
    parser.usage = "%(prog)s CONFIG --site SITE [options] [--SECTION.OPTION VALUE ...]"
    add_request_arguments(parser)
    parser.add_argument("--nodes", type=count, default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--launcher",
        choices=("node", "none"),
        default="node",
        help="node: torchrun or accelerate on each node; none: one task per GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--members", type=Path, metavar="FILE", help="a sweep: one line of options per member"
    )
    parser.add_argument("--at-once", type=count, metavar="N", help="members of a sweep that run at a time")
    parser.add_argument(
        "--overwrite", action="store_true", help="with --members: replace those of an earlier submission"
    )
    parser.add_argument(
        "--no-check-data",
        action="store_true",
        help="do not look for images, weights and plug-ins here: only the nodes have them",
    )


def run(args: argparse.Namespace) -> None:
    """Check everything, submit, and print what comes next."""
    from anynet_dist.cluster.inputs import check_files
    from anynet_dist.cluster.site import read_site
    from anynet_dist.cluster.submission import TEMPLATES, check_members, prepare, submit

    site = read_site(args.site)
    check_files(site, args.site)
    job = _job(args, site)
    check_members(job, args.overwrite)
    submission = prepare(job, site, args.site, args.templates or TEMPLATES)
    for name in site.doubtful:
        print(f"note: {args.site} uses ${name}, which is not set here: each job needs it", file=sys.stderr)
    if args.dry_run:
        print(submission)
        return
    number = submit(job, submission)
    folder = "sweep folder" if job.members else "run folder"
    status = f"{program('anynet')} status {shlex.quote(str(job.run))}"
    print(f"job {number}\n{folder}: {job.run}\nlog: {job.run / 'slurm'}\nnext: {status}")


def _job(args: argparse.Namespace, site: Site) -> Job:
    """The job, with its config checked, and the members' configs too."""
    from dataclasses import replace

    from anynet_dist.cluster.submission import Job
    from anynet_dist.config import load_config
    from anynet_dist.runs.folder import check_folder, folder_of
    from anynet_dist.system.files import require_regular_file

    if args.members and (args.nodes > 1 or args.launcher == "none"):
        raise UserError("a member of a sweep (--members) runs on one node with a launcher")
    for option, given in (("--at-once", args.at_once), ("--overwrite", args.overwrite)):
        if given and not args.members:
            raise UserError(f"{option} is for sweeps: it needs --members")
    require_regular_file(args.config)  # also a pipe of the shell, because the job cannot read it
    loaded = load_config(args.config, args.overrides)
    config = loaded.config
    name = config.run.name or loaded.path.stem
    folder = folder_of(replace(config, run=replace(config.run, name=name)))
    if args.members:
        _check_members(args, site)
    else:
        _check(loaded, args, site)
        check_folder(folder, config)
    return Job(
        config=Path(args.config),
        run=folder.path,
        name=name,
        overrides=tuple(args.overrides),
        nodes=args.nodes,
        tasks=args.launcher == "none",
        members=args.members,
        at_once=args.at_once,
        **request_of(args),
    )


def _check(loaded: LoadedConfig, args: argparse.Namespace, site: Site) -> None:
    """Raise UserError where the job would have no data, or no time."""
    from anynet_dist.cluster.inputs import check_inputs, check_time_limit

    if not args.no_check_data:
        check_inputs(loaded)
    limit, where = (args.time, "--time") if args.time else (site.time, f"{args.site}: ANYNET_TIME")
    if limit:
        check_time_limit(limit, where, loaded.config.run.stop_margin, site)


def _check_members(args: argparse.Namespace, site: Site) -> None:
    """Raise UserError that names the member whose line makes no config, or one without data or time."""
    import shlex

    from anynet_dist.cluster.submission import members_of
    from anynet_dist.config import load_config

    for number, line in enumerate(members_of(args.members), start=1):
        try:
            words = shlex.split(line)
            config = args.config if words[0].startswith("-") else words.pop(0)
            _check(load_config(config, [*args.overrides, *words]), args, site)
        except ValueError as error:
            raise UserError(f"{args.members}, member {number}: {error}") from None
