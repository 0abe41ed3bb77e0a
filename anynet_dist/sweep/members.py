"""The members of a sampled population: one run config each, and the table of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from anynet_dist.config import Config, load_config
from anynet_dist.config.dump import dump_options
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.sweep.population import POPULATION, SPACE, Member, Population, Stage, write_population
from anynet_dist.sweep.sampling import Drawn, Sample, window_text
from anynet_dist.sweep.space import Draw, Space
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_text

CONFIGS, RUNS, BASE = "configs", "runs", "base.yaml"
REPEAT = "-r"
"""0003-r2 is the second training of member 0003, with the next seed."""
_OF_THE_RUN = ("run.name", "run.dir", "run.resume", "run.overwrite")
_OF_THE_NETWORK = (
    "model.preset",
    "model.regnet.",
    "model.block_type",
    "model.num_",
    "model.bottleneck_ratio",
    "model.group_width",
    "model.strides",
    "model.se_ratio",
    "model.stem",
    "model.pretrained",
    "model.freeze",
)


def write_sampled(
    folder: Path,
    space_file: Path,
    space: Space,
    drawn: Drawn,
    seed: int,
    base: Mapping[str, Any],
    repeats: int = 1,
) -> Population:
    """Write a population whose members can be trained, `repeats` times each; `base` are the options that they
    share (base_options).

    population.json comes last: without it the folder counts for nothing. Raises UserError where the folder
    holds a population already.
    """
    if (folder / POPULATION).exists():
        raise UserError(f"{folder} already holds a population: name another folder")
    members = tuple(member_of(space, f"{number:04d}", found) for number, found in enumerate(drawn.samples))
    write_shared(folder, space_file, base)
    for member, found in zip(members, drawn.samples, strict=True):
        write_config(folder, space, member, found, base)
    population = Population(
        name=space.name,
        kind="sampled",
        members=members,
        origin={
            "space": space_file.name,
            "seed": seed,
            "window": window_text(space),
            "draws": drawn.draws,
            "acceptance": round(drawn.acceptance, 6),
            "degrees_of_freedom": space.degrees_of_freedom,
            "resolution": space.resolution,
            "repeats": repeats,
        },
    )
    write_population(folder, population)
    return population


def write_shared(folder: Path, space_file: Path, base: Mapping[str, Any]) -> None:
    """Write what the members share: the space, and the options of their run configs."""
    (folder / CONFIGS).mkdir(parents=True, exist_ok=True)
    write_text(folder / SPACE, space_file.read_text(encoding="utf-8"))
    write_text(folder / CONFIGS / BASE, base_text(base))


def base_text(base: Mapping[str, Any]) -> str:
    """The run config that the members share."""
    return dump_options(base) if base else "{}\n"


def write_config(folder: Path, space: Space, member: Member, found: Sample, base: Mapping[str, Any]) -> None:
    """Write the run config of a member."""
    write_text(config_file(folder, member.id), _member_config(folder, space, member, found, base))


def base_options(config: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """What was set in a run config and on the command line, by dotted key, but for the network and the run's
    own name. Raises ConfigError for what is wrong with them."""
    if config is None:
        if overrides:
            raise UserError("options of a run need the run config that they change: --config CONFIG")
        return {}
    loaded = load_config(config, overrides)
    values = asdict(loaded.config)
    return {
        key: _at(values, key)
        for key in loaded.sources
        if key not in _OF_THE_RUN and not key.startswith(_OF_THE_NETWORK)
    }


def config_file(folder: Path, member: str) -> Path:
    """The run config of a member."""
    return folder / CONFIGS / f"{member}.yaml"


def run_folder(folder: Path, member: str) -> Path:
    """The run folder of a member's training."""
    return folder / RUNS / member


def trainings_of(population: Population) -> list[str]:
    """What is to be trained: each member under its own name, then the repeats with other seeds."""
    repeats = int(population.origin.get("repeats", 1))
    return [
        name for repeat in range(repeats) for name in (training(m.id, repeat) for m in population.members)
    ]


def training(member: str, repeat: int) -> str:
    """The name of a member's training; 0 is the first."""
    return member if repeat == 0 else f"{member}{REPEAT}{repeat + 1}"


def load_member(folder: Path, name: str, overrides: Sequence[str] = ()) -> Config:
    """The run config of a training, in its own run folder, going on where it was left."""
    member, _, number = name.partition(REPEAT)
    place = ["--run.dir", str(run_folder(folder, name)), "--run.resume", "auto"]
    config = load_config(config_file(folder, member), [*overrides, *place]).config
    repeat = int(number) - 1 if number else 0
    return replace(config, run=replace(config.run, seed=config.run.seed + repeat))


def member_of(space: Space, name: str, found: Sample) -> Member:
    """A sample as a member of a population."""
    spec = network_spec(**found.model, num_classes=space.num_classes)
    complexity = {"flops": found.complexity.flops, "params": found.complexity.params}
    complexity["acts"] = found.complexity.acts
    stages = tuple(
        Stage(
            block=stage.block_type,
            depth=stage.depth,
            width=stage.width,
            bottleneck_ratio=stage.bottleneck_ratio,
            group_width=stage.group_width,
        )
        for stage in spec.stages
    )
    known = {measure: float(value) for measure, value in complexity.items() if value is not None}
    return Member(id=name, parameters=_flat(found.draw), complexity=known, stages=stages)


def _flat(draw: Draw) -> dict[str, float | str]:
    """The values by the name of their parameter, numbered by stage where each stage has its own."""
    flat: dict[str, float | str] = {}
    for name, values in draw.items():
        short = name.removeprefix("regnet.")
        if len(values) == 1:
            flat[short] = values[0]
        else:
            flat |= {f"{short}{stage}": value for stage, value in enumerate(values, 1) if value is not None}
    return flat


def _member_config(folder: Path, space: Space, member: Member, found: Sample, base: Mapping[str, Any]) -> str:
    own: dict[str, Any] = {"base": BASE, "run.name": f"{space.name}-{member.id}"}
    own["run.dir"] = str(run_folder(folder, member.id))
    if "tracking.report" not in base:
        own["tracking.report"] = False  # the population has a report of its own
    for name, value in found.model.items():
        if name == "regnet":
            own |= {f"model.regnet.{key}": each for key, each in value.items()}
        else:
            own[f"model.{name}"] = value
    own |= {name: values[0] for name, values in found.draw.items() if "." in name and "regnet." not in name}
    if base.get("tracking.wandb", "off") != "off" or "wandb" in base.get("tracking.trackers", []):
        own |= {"tracking.wandb_group": space.name, "tracking.wandb_job_type": "member"}
        own["tracking.tags"] = [*base.get("tracking.tags", []), "sweep"]
    return dump_options(own)


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found
