"""The plug-in files that a run keeps, so that its network can be built when the originals have moved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import PLUGINS, RunFolder, continues
from anynet_dist.system.files import atomic_path, read_regular_file

__all__ = ["PLUGINS", "choose_plugins", "keep_plugins", "kept_names", "read_plugins"]

logger = logging.getLogger(__name__)


def kept_names(plugins: Iterable[str]) -> list[str]:
    """What a run calls its copies of these files: their own names, numbered where two are the same."""
    names: list[str] = []
    for plugin in map(Path, plugins):
        numbered = (f"{plugin.stem}_{number}{plugin.suffix}" for number in range(2, len(names) + 3))
        names.append(next(name for name in (plugin.name, *numbered) if name not in names))
    return names


def choose_plugins(config: Config, folder: RunFolder) -> Config:
    """The config with the copy that the run keeps in place of a plug-in that is gone.

    A resumed run takes the copy, too, of a plug-in that has changed since it started, unless
    run.allow_config_change is set. Either is logged.
    """
    return replace(config, plugins=list(_chosen(config, folder)))


def _chosen(config: Config, folder: RunFolder) -> Iterator[str]:
    for plugin, name in zip(config.plugins, kept_names(config.plugins), strict=True):
        copy = folder.plugins / name
        if not copy.is_file():
            yield plugin
        elif not Path(plugin).is_file():
            logger.warning("plugin %s is gone: the run's own copy %s takes its place", plugin, copy)
            yield str(copy.absolute())
        elif not continues(folder, config.run.resume) or _same(plugin, copy):
            yield plugin
        elif config.run.allow_config_change:
            logger.warning("plugin %s has changed since the run started, and is used as it is now", plugin)
            yield plugin
        else:
            logger.warning(
                "plugin %s has changed since the run started: the run continues with its own copy, %s"
                " (--allow-config-change takes the changed one)",
                *(plugin, copy),
            )
            yield str(copy.absolute())


def _same(one: str | Path, other: str | Path) -> bool:
    return read_regular_file(one) == read_regular_file(other)


def read_plugins(config: Config) -> dict[str, bytes]:
    """The files that the run is to keep, by the names they get."""
    contents = (read_regular_file(plugin) for plugin in config.plugins)
    return dict(zip(kept_names(config.plugins), contents, strict=True))


def keep_plugins(plugins: dict[str, bytes], folder: RunFolder) -> None:
    """Write what `read_plugins` has read into the run folder."""
    for name, content in plugins.items():
        with atomic_path(folder.plugins / name) as temporary:
            temporary.write_bytes(content)
