"""The model card of a Hub folder: what the network is, how good, how to use it, how it was trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from anynet_dist.export.optional import require
from anynet_dist.inference.trained import SPLITS, TrainedNetwork, scores_of
from anynet_dist.models.complexity import network_complexity
from anynet_dist.system.redaction import redact_values

PLACEHOLDER = "OWNER/NAME"
USAGE = """## Use

```python
from huggingface_hub import snapshot_download
from anynet_dist import load_model

folder = snapshot_download("{repo_id}")
network = load_model(folder{allow})  # in evaluation mode
```

{own_parts}`anynet predict FOLDER photo.jpg{allow_flag}` names the classes of a photo.

The input is {input}, as {normalisation}."""


def model_card(trained: TrainedNetwork, repo_id: str | None = None, plugins: tuple[str, ...] = ()) -> str:
    """README.md: YAML for the Hub, then Markdown for people.

    `plugins` are the files beside it that register parts of the network. Paths are shortened to their last
    two parts, so that the card does not reveal how the author's disk is organised.
    """
    run = _run_facts(trained)
    name = repo_id.rpartition("/")[2] if repo_id else run.get("name") or "AnyNet"
    scores = scores_of(trained)
    sections = [
        f"---\n{_front_matter(name, scores, run)}---",
        f"# {name}",
        _summary(trained),
        *_results(scores),
        _usage(trained, repo_id or PLACEHOLDER, plugins),
        *_training(run),
    ]
    return "\n\n".join(sections) + "\n"


def _run_facts(trained: TrainedNetwork) -> dict[str, Any]:
    """Config and environment of the run, with its name and data set; empty apart from a run."""
    if trained.run is None:
        return {}
    config = _shareable(yaml.safe_load(trained.run.config.read_text(encoding="utf-8")))
    data = config.get("data") or {}
    facts = {"config": config, "name": (config.get("run") or {}).get("name")}
    facts |= {split: data.get(split) or data.get("train") for split in SPLITS}
    if trained.run.environment.is_file():
        facts["environment"] = _shareable(json.loads(trained.run.environment.read_text(encoding="utf-8")))
    return facts


def _shareable(value: Any) -> Any:
    return redact_values(shorten(value))


def shorten(value: Any) -> Any:
    """`value` with the absolute paths among its strings reduced to their last two parts."""
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith("--"):  # an option of a command line: --data.train=PATH
        name, equals, rest = value.partition("=")
        return f"{name}{equals}{shorten(rest)}"
    return str(Path(*Path(value).parts[1:][-2:])) if Path(value).is_absolute() else value


def _front_matter(name: str, scores: dict[str, dict[str, float]], run: dict[str, Any]) -> str:
    hub = require("huggingface_hub")
    results = [
        hub.EvalResult(
            task_type="image-classification",
            dataset_type="custom",
            dataset_name=run.get(split) or "custom",
            dataset_split=split,
            metric_type="accuracy",
            metric_name=title,
            metric_value=round(scores[split][key], 6),
        )
        for split in scores
        for key, title in (("top1", "top-1 accuracy"), ("top5", "top-5 accuracy"))
    ]
    data = hub.ModelCardData(
        library_name="anynet_dist",
        pipeline_tag="image-classification",
        tags=["image-classification", "anynet", "pytorch"],
        metrics=["accuracy"],
        model_name=name,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def _summary(trained: TrainedNetwork) -> str:
    spec, side = trained.network.spec, trained.description.resolution
    cost = network_complexity(spec, side)
    stages = " / ".join(f"{stage.depth} x {stage.width} {stage.block_type}" for stage in spec.stages)
    flops = "unknown" if cost.flops is None else f"{cost.flops:,} at {side}x{side} pixels"
    names = ", ".join(trained.description.classes[:10])
    more = ", ..." if len(trained.description.classes) > 10 else ""
    rows = [
        ("Stem", f"{spec.stem.type}, {spec.stem.width} channels"),
        ("Stages (depth x width)", stages),
        ("Parameters", f"{cost.params:,}"),
        ("Multiply-adds", flops),
        ("Classes", f"{spec.head.num_classes}" + (f": {names}{more}" if names else "")),
    ]
    table = _table(("", ""), rows)
    return f"An image classifier from the AnyNet design space, trained with anynet_dist.\n\n{table}"


def _results(scores: dict[str, dict[str, float]]) -> Iterator[str]:
    if not scores:
        return
    rows = [
        (split, f"{score['top1']:.2%}", f"{score['top5']:.2%}", f"{score['loss']:.4f}")
        for split, score in scores.items()
    ]
    table = _table(("Split", "Top-1", "Top-5", "Loss"), rows)
    yield f"## Results\n\n{table}\n\nOne centre crop an image, each image counted once."


def _usage(trained: TrainedNetwork, repo_id: str, plugins: tuple[str, ...]) -> str:
    description = trained.description
    side, mean, std = description.resolution, _numbers(description.mean), _numbers(description.std)
    crop = description.crop_ratio
    files = ", ".join(f"`{name}`" for name in plugins)
    own_parts = f"Parts of this network are python code, which runs when allowed: read {files} first.\n\n"
    return USAGE.format(
        repo_id=repo_id,
        allow=", allow_plugins=True" if plugins else "",
        allow_flag=" --allow-plugins" if plugins else "",
        own_parts=own_parts if plugins else "",
        input=f"float32 RGB of {side}x{side} pixels"
        + (f", a centre crop of {crop:.4g} of the shorter side" if crop else ""),
        normalisation=f"(x - mean) / std of x in 0..1 with mean {mean} and std {std}",
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _training(run: dict[str, Any]) -> Iterator[str]:
    if "environment" in run:
        environment = run["environment"]
        yield f"## Training\n\n```\n{_command(environment['command'])}\n```"
        yield _table(("", ""), list(_hardware(environment)))
    if "config" in run:
        text = yaml.safe_dump(run["config"], sort_keys=False, default_flow_style=None, allow_unicode=True)
        yield f"<details><summary>config.yaml</summary>\n\n```yaml\n{text}```\n\n</details>"


def _command(words: list[str]) -> str:
    program, *arguments = words
    name = "anynet" if Path(program).stem in ("anynet", "__main__") else f"python {Path(program).name}"
    return " ".join([name, shlex.join(arguments)])


def _hardware(environment: dict[str, Any]) -> Iterator[tuple[str, str]]:
    gpu, cpu = environment.get("gpu"), environment["cpu"]
    device = (
        f"{gpu['name']} ({gpu['memory_gib']} GiB)" if gpu else f"CPU {cpu['model']}, {cpu['cores']} cores"
    )
    yield "Device", device
    yield "Processes", str(environment["world_size"])
    if "precision" in environment:
        yield "Precision", environment["precision"]
    yield "Platform", environment["platform"]
    yield "Versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    if environment.get("commit"):
        yield "Commit", environment["commit"]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
