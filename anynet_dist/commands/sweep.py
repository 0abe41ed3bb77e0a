"""Explore a design space: describe it, draw a population, train it, compare populations.

`anynet sweep describe SPACE` shows what a space holds; SPACE is a file, or a shipped one such as anynetx_a.
`anynet sweep sample SPACE --n 500 --out DIR` draws networks, each a run config of its own.
`anynet sweep search SPACE --trials 100 --out DIR --config CONFIG` looks for good networks instead.
`anynet sweep run DIR` trains them here; `anynet sweep submit DIR` as one SLURM array.
`anynet sweep status DIR` says how far they are, `anynet sweep best DIR` which was the best.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anynet_dist.system.errors import UserError

if TYPE_CHECKING:
    from anynet_dist.sweep.space import Bound, Space

MEASURES = ("flops", "params", "acts")
TRIAL_DRAWS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    describe = actions.add_parser("describe", help="what a space holds: size, acceptance, three networks")
    _add_space(describe)
    describe.add_argument("--seed", type=int, default=0, help="of the networks shown (default: %(default)s)")
    _configure_sample(actions.add_parser("sample", help="draw a population of networks"))
    _configure_search(actions.add_parser("search", help="look for good networks with Optuna"))
    _configure_run(actions.add_parser("run", help="train the members of a population on this machine"))
    _configure_worker(actions.add_parser("worker", help="train members in this process (run starts these)"))
    _configure_submit(actions.add_parser("submit", help="train the members by one SLURM array"))
    _configure_best(actions.add_parser("best", help="a run config of the best network, and why it is that"))
    _configure_report(actions.add_parser("report", help="one page that compares populations"))
    _configure_import(actions.add_parser("import", help="read a population that others published"))
    status = actions.add_parser("status", help="how far the members are, and the best so far")
    _add_folder(status)
    status.add_argument("--json", action="store_true", help="print a JSON object")


def _add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", metavar="SPACE", help="a space file (YAML), or a shipped one: anynetx_a")
    for measure in MEASURES:
        parser.add_argument(
            f"--{measure}", metavar="LEAST:MOST", help=f"only networks of so many {measure}: 360e6:400e6"
        )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the population's folder")


def _configure_sample(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s SPACE --n N --out DIR [--config CONFIG [--SECTION.OPTION VALUE ...]]"
    _add_space(parser)
    parser.add_argument("--n", type=int, required=True, metavar="N", help="how many networks")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same networks (default: 0)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="R",
        help="trainings of each network, with other seeds: they show the noise of the seed (default: 1)",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="the run config that each network is trained with, but for its network; options after it change"
        " it (default: what the space file names)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: %(default)s)")
    parser.set_defaults(overrides=[])


def _configure_search(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s SPACE --trials N --out DIR --config CONFIG [--SECTION.OPTION VALUE ...]"
    _add_space(parser)
    parser.add_argument(
        "--trials", type=int, required=True, metavar="N", help="networks to train in all, over all calls"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make, or to go on in"
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="the run config that each network is trained with; options after it",
    )
    parser.add_argument(
        "--objective",
        action="append",
        metavar="NAME",
        help="val/top1 or another score on validation images, flops, params or acts; several give a Pareto"
        " front (default: val/top1)",
    )
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="(default: %(default)s)")
    parser.add_argument(
        "--pruner",
        choices=("asha", "hyperband", "none"),
        help="ends runs that are behind (default: asha; none where there are several objectives)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument(
        "--parallel", type=int, metavar="K", help="trials at a time (default: one per GPU, or one)"
    )
    _add_attempts(parser)
    parser.set_defaults(overrides=[])


def _configure_run(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument(
        "--parallel", type=int, metavar="K", help="members at a time (default: one per GPU, or one)"
    )
    _add_attempts(parser)
    parser.add_argument("--retry-failed", action="store_true", help="try members again that were given up")


def _configure_worker(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    _add_attempts(parser)
    parser.add_argument("--member", metavar="ID", help="train this member only")
    parser.set_defaults(overrides=[])


def _configure_submit(parser: argparse.ArgumentParser) -> None:
    from anynet_dist.cluster.arguments import add_request_arguments, count

    parser.usage = "%(prog)s DIR --site SITE --workers N [options] [--SECTION.OPTION VALUE ...]"
    _add_folder(parser)
    parser.add_argument(
        "--workers", type=count, required=True, metavar="N", help="tasks that share the members"
    )
    parser.add_argument("--at-once", type=count, metavar="K", help="tasks that run at a time (default: all)")
    add_request_arguments(parser)
    parser.set_defaults(overrides=[])


def _configure_best(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s DIR [--out FILE] [--config CONFIG [--SECTION.OPTION VALUE ...]]"
    _add_folder(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: print it)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="CONFIG",
        help="the recipe of the full training; options after it change it (default: the population's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there already")
    parser.set_defaults(overrides=[])


def _configure_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="populations")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page to write"
    )
    parser.add_argument("--tables", type=Path, metavar="DIR", help="also write the numbers, as CSV and JSON")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also write plots as PNG, for papers")
    parser.add_argument("--wandb", choices=("online", "offline"), help="also as a run in Weights & Biases")
    parser.add_argument("--wandb-project", metavar="NAME", help="its project (default: anynet)")
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it is there already")


def _configure_import(parser: argparse.ArgumentParser) -> None:
    from anynet_dist.sweep.importers import DATASETS, FORMATS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "\n".join(f"{name}: {what}" for name, what in FORMATS.items())
    parser.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("file", type=Path, metavar="FILE", help="what was published")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--name", help="of the population (default: the file's)")
    parser.add_argument("--dataset", metavar="NAME", help=f"of nas-bench-201: {', '.join(DATASETS)}")


def _add_attempts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attempts",
        type=int,
        default=3,
        metavar="N",
        help="give a member up after it has failed so often without getting further (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Do the chosen action."""
    from anynet_dist.system.logging import setup_logging
    from anynet_dist.system.output import tolerate_lost_output

    tolerate_lost_output()
    setup_logging()
    actions = {
        "describe": _describe,
        "sample": _sample,
        "search": _search,
        "run": _run,
        "worker": _worker,
        "status": _status,
        "submit": _submit,
        "best": _best,
        "import": _import,
        "report": _report,
    }
    actions[args.action](args)


def _describe(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.members import member_of
    from anynet_dist.sweep.sampling import draw_chunk, sample, window_text
    from anynet_dist.sweep.sketch import sketch

    space = _space(args)
    chunks = [draw_chunk(space, args.seed, number) for number in range(TRIAL_DRAWS)]
    draws, kept = sum(chunk.draws for chunk in chunks), sum(len(chunk.samples) for chunk in chunks)
    size = "not finite" if space.size is None else f"{space.size:,}"
    print(f"{space.name}: {space.stages} stages, {space.degrees_of_freedom} degrees of freedom")
    print(f"networks before the window: {size}")
    print(f"window, at {space.resolution} pixels: {window_text(space)}")
    print(f"within it: {kept / draws:.2%} of {draws:,} draws")
    for chunk in chunks[:1]:
        for reason, number in chunk.refusals.most_common(6):
            print(f"  {number / chunk.draws:7.2%}  {reason}")
    print("three of its networks:")
    for found in sample(space, 3, args.seed).samples:
        print(f"  {sketch(member_of(space, 'shown', found))}")


def _sample(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.members import base_options, write_sampled
    from anynet_dist.sweep.population import POPULATION
    from anynet_dist.sweep.sampling import sample
    from anynet_dist.sweep.space_file import config_of

    for name in ("n", "repeats"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if (args.out / POPULATION).exists():
        raise UserError(f"{args.out} already holds a population: name another folder")
    space, file = _space(args), _space_file(args.space)
    base = base_options(Path(args.config) if args.config else config_of(file), args.overrides)
    drawn = sample(space, args.n, args.seed, args.workers)
    write_sampled(args.out, file, space, drawn, args.seed, base, args.repeats)
    print(f"{args.n} networks of {space.name} in {args.out}, from {drawn.draws:,} draws")
    if not base:
        print("no --config was given: each network's config holds the network alone")


def _search(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.members import base_options
    from anynet_dist.sweep.search import Plan, default_pruner
    from anynet_dist.sweep.search_run import search
    from anynet_dist.sweep.space_file import config_of

    objectives = tuple(args.objective or ("val/top1",))
    pruner = args.pruner or default_pruner(objectives)
    plan = Plan(
        trials=args.trials, seed=args.seed, objectives=objectives, sampler=args.sampler, pruner=pruner
    )
    space, file = _space(args), _space_file(args.space)
    base = base_options(Path(args.config) if args.config else config_of(file), args.overrides)
    print(search(args.out, file, space, plan, base, args.parallel, args.attempts))


def _run(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.runner import run_members

    run_members(args.folder, args.parallel, args.attempts, args.retry_failed)


def _worker(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.population import read_population

    if read_population(args.folder).kind == "searched":
        from anynet_dist.sweep.search_worker import work_on_search

        work_on_search(args.folder, args.attempts)
        return
    from anynet_dist.sweep.worker import work

    work(args.folder, args.attempts, args.member, args.overrides)


def _submit(args: argparse.Namespace) -> None:
    import shlex

    from anynet_dist.cluster.arguments import request_of
    from anynet_dist.cluster.inputs import check_files
    from anynet_dist.cluster.site import read_site
    from anynet_dist.cluster.submission import TEMPLATES, Job, prepare, submit
    from anynet_dist.sweep.members import load_member, trainings_of
    from anynet_dist.sweep.population import read_population
    from anynet_dist.system.install import program

    population = read_population(args.folder)
    load_member(args.folder, population.members[0].id, args.overrides)  # it names what is wrong with options
    site = read_site(args.site)
    check_files(site, args.site)
    job = Job(
        config=args.folder,
        run=args.folder,
        name=population.name,
        overrides=tuple(args.overrides),
        workers=min(args.workers, len(trainings_of(population))),
        at_once=args.at_once,
        **request_of(args),
    )
    submission = prepare(job, site, args.site, args.templates or TEMPLATES)
    if args.dry_run:
        print(submission)
        return
    number = submit(job, submission)
    status = f"{program('anynet')} sweep status {shlex.quote(str(args.folder))}"
    print(f"job {number}\npopulation: {args.folder}\nlog: {args.folder / 'slurm'}\nnext: {status}")


def _status(args: argparse.Namespace) -> None:
    import json

    from anynet_dist.sweep.progress import overview

    seen = overview(args.folder)
    print(json.dumps(seen.as_dict(), indent=2) if args.json else seen.text())


def _best(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.best import best_config
    from anynet_dist.system.files import check_outputs, write_text

    if args.out:
        check_outputs(args.out, overwrite=args.overwrite)
    text = best_config(args.folder, args.config, args.overrides)
    if args.out is None:
        print(text, end="")
        return
    write_text(args.out, text)
    print("\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")))
    print(f"written: {args.out}")


def _report(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.progress import collect
    from anynet_dist.sweep.report import write_pictures, write_report, write_tables
    from anynet_dist.system.files import check_outputs

    check_outputs(args.out, overwrite=args.overwrite)
    populations = [collect(folder) for folder in args.folders]
    figures = write_report(populations, args.out)
    if args.tables:
        write_tables(populations, figures, args.tables)
    if args.pictures:
        write_pictures(figures, args.pictures)
    if args.wandb:
        from anynet_dist.sweep.report_wandb import log_report

        log_report(figures, args.pictures, args.wandb, args.wandb_project, args.out.parent)
    for comparison in figures.data["comparisons"]:
        print(f"{comparison['a']} and {comparison['b']}: {comparison['verdict']}")
    print(f"report: {args.out}")


def _import(args: argparse.Namespace) -> None:
    from anynet_dist.sweep.importers import import_population
    from anynet_dist.sweep.population import write_population

    population = import_population(args.format, args.file, args.name, args.dataset)
    write_population(args.out, population)
    print(f"{len(population.members)} networks of {population.name} in {args.out}")


def _space(args: argparse.Namespace) -> Space:
    from anynet_dist.sweep.space import with_window
    from anynet_dist.sweep.space_file import read_space

    given = {measure: getattr(args, measure) for measure in MEASURES}
    bounds = {measure: _bound(measure, text) for measure, text in given.items() if text is not None}
    return with_window(read_space(_space_file(args.space)), bounds)


def _space_file(name: str) -> Path:
    """The file, or the shipped space of that name."""
    from anynet_dist.system.errors import unknown_name
    from anynet_dist.system.shipped import shipped

    path = Path(name)
    if path.exists() or path.suffix or "/" in name:
        return path
    known = {file.stem: file for file in sorted(shipped("configs/sweep").glob("*.yaml"))}
    if name not in known:
        raise unknown_name("space", name, known)
    return known[name]


def _bound(measure: str, text: str) -> Bound:
    from anynet_dist.sweep.space import Bound

    least, colon, most = text.partition(":")
    try:
        bound = Bound(least=float(least or 0), most=float(most or "inf"))
    except ValueError:
        colon = ""
    if not colon or bound.least > bound.most:
        raise UserError(f"--{measure} must be LEAST:MOST, such as 360e6:400e6 or :5e6 (got '{text}')")
    return bound
