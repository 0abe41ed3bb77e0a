"""What a job needs, checked before it waits in a queue: its files, and the time to save."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from anynet_dist.cluster.site import Site
from anynet_dist.cluster.time_limit import limit_seconds
from anynet_dist.config.errors import ConfigError, Problem
from anynet_dist.config.load import LoadedConfig
from anynet_dist.system.errors import UserError

DOWNLOADED = re.compile(r"[a-z][a-z0-9+.-]*:.+")


def check_inputs(loaded: LoadedConfig) -> None:
    """Raise ConfigError with each file or folder that the config names and that is not there."""
    problems = list(_problems(loaded))
    if problems:
        raise ConfigError(problems)


def _problems(loaded: LoadedConfig) -> Iterator[Problem]:
    config = loaded.config
    if config.data.train is None:
        yield Problem("data.train", "is not set: name a .beton file or an image folder")
    named = [(f"data.{split}", getattr(config.data, split)) for split in ("train", "val", "test")]
    named += [("plugins", plugin) for plugin in config.plugins]
    if not DOWNLOADED.fullmatch(config.model.pretrained or ""):
        named.append(("model.pretrained", config.model.pretrained))
    for key, path in named:
        if path is not None and not Path(path).exists():
            message = f"no such file or folder: '{path}'; if only the nodes have it, add --no-check-data"
            yield Problem(key, message, loaded.sources.get(key))


def check_files(site: Site, site_file: Path) -> None:
    """Raise UserError where a file that the site's settings name, outside of a container, is not there."""
    if site.accelerate_config and not site.container and not Path(site.accelerate_config).is_file():
        raise UserError(f"{site_file}: ANYNET_ACCELERATE_CONFIG: no such file: '{site.accelerate_config}'")


def check_time_limit(limit: str, where: str, stop_margin: float, site: Site) -> None:
    """Raise UserError for a time limit in no format of SLURM's, or too short to train and save.

    `where` names where it was set.
    """
    try:
        seconds = limit_seconds(limit)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    margins = {
        "run.stop_margin": (stop_margin, "the run would save and stop at once"),
        "ANYNET_SIGNAL_SECONDS": (site.signal_seconds, "SLURM would signal the run to stop at once"),
    }
    for name, (margin, consequence) in margins.items():
        if seconds <= margin:
            raise UserError(
                f"{where}: must be longer than {name}, {margin:g} s, or {consequence}"
                f" (got '{limit}', {seconds:g} s)"
            )
