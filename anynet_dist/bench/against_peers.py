"""Our trainer against those of other libraries: the same network, images, batch, optimizer and steps."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from anynet_dist.bench.own_training import to_be_measured, train_ours
from anynet_dist.bench.paced import Pacing, Train, alternate_trainings
from anynet_dist.bench.peers import missing, train_peer, ways
from anynet_dist.bench.peers.setting import PeerSetting
from anynet_dist.bench.results import Row, compare, speed
from anynet_dist.config.schema import AugmentConfig, Config
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError
from anynet_dist.training import build
from anynet_dist.training.distributed.accelerator import choose_precision

OURS = "anynet"
SHARED_AUGMENTATION = ("random_resized_crop", "crop_scale", "crop_aspect", "flip")
"""What all of them do to images."""


def bench_peers(
    config: Config, libraries: Sequence[str], workers: int | None, pacing: Pacing
) -> tuple[list[Row], list[str]]:
    """A row for our trainer and for each way to train with each library, and what is to be said of them.

    Raises UserError as a run does, and where no library is installed.
    """
    config, notes = _same_images(config)
    notes += [sentence for library in libraries if (sentence := missing(library))]
    libraries = [library for library in libraries if not missing(library)]
    if not libraries:
        raise UserError(f"there is nothing to compare with: {'; '.join(notes)}")
    with tempfile.TemporaryDirectory(prefix="anynet-bench-") as folder:
        measured = to_be_measured(config, Path(folder) / "ours")
        setting = _setting(config, choose_workers(workers, local_world=1), folder)
        trainings: dict[str, Train] = {OURS: partial(train_ours, measured, False)}
        for library in libraries:
            for name, way in ways(library, setting).items():
                trainings[name] = partial(train_peer, library, way)
        found = alternate_trainings(trainings, pacing)
    rows: list[Row] = [{"trainer": name, **speed(images, timing)} for name, (images, timing) in found.items()]
    compare(rows)
    for row in rows:
        row["ahead_ratio"], row["cpu_ahead_ratio"] = 1 / row["ratio"], 1 / row["cpu_ratio"]
    return rows, notes


def _same_images(config: Config) -> tuple[Config, list[str]]:
    """The config with the augmentation that all trainers have, and what that leaves out."""
    asked, plain = config.data.augment, AugmentConfig()
    kept = replace(plain, **{name: getattr(asked, name) for name in SHARED_AUGMENTATION})
    left = [each.name for each in fields(asked) if getattr(asked, each.name) != getattr(kept, each.name)]
    notes = [f"augmentation that not all trainers have is left out: {', '.join(left)}"] if left else []
    return replace(config, data=replace(config.data, augment=kept)), notes


def _setting(config: Config, workers: int, folder: str) -> PeerSetting:
    """What the libraries are given; what the config leaves open is chosen as our trainer does."""
    build.check_network(config)
    train = build.open_splits(config)["train"]
    resolved = build.resolve(config, train)
    assert resolved.data.train_res is not None
    return PeerSetting(
        model=build.model_arguments(resolved),
        data=str(resolved.data.train),
        batch=config.train.global_batch,
        resolution=resolved.data.train_res,
        augment=build.augmentation(config.data.augment),
        normalisation=build.resolved_normalisation(resolved),
        optim=config.optim,
        precision=choose_precision(config)[0],
        workers=workers,
        folder=folder,
        cpu=config.run.cpu,
    )


def setting_facts(config: Config) -> dict[str, object]:
    """What of the config the figures depend on, for the JSON."""
    return {"model": build.model_arguments(config), "train": asdict(config.train), "data": config.data.train}
