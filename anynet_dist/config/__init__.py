"""The options of a run: dataclasses, strict YAML with `base:`, and command-line overrides."""

from anynet_dist.config.dump import dump_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.config.load import LoadedConfig, load_config
from anynet_dist.config.schema import Config

__all__ = ["Config", "ConfigError", "LoadedConfig", "dump_config", "load_config"]
