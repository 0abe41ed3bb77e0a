"""A config as YAML that loads back to the same config, bare or with where each value came from.

Credentials of URLs are redacted; a value that had some is refused when it is loaded back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from anynet_dist.config.load import LoadedConfig
from anynet_dist.config.schema import Config
from anynet_dist.config.yaml_reader import PlainDumper
from anynet_dist.system.redaction import redact_values

COMMENT_COLUMN = 44


@dataclass(frozen=True)
class _Line:
    text: str
    key: str = ""  # empty for the heading of a section


def dump_config(config: Config) -> str:
    """The YAML of every option; loading it gives an equal Config where there were no credentials."""
    return "".join(f"{line.text}\n" for line in _lines(redact_values(asdict(config))))


def dump_options(options: Mapping[str, Any]) -> str:
    """The YAML of some options, given by dotted key."""
    tree: dict[str, Any] = {}
    for key, value in options.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return "".join(f"{line.text}\n" for line in _lines(redact_values(tree)))


def dump_with_sources(loaded: LoadedConfig) -> str:
    """The YAML of every option with a comment that names where its value came from."""
    text = ""
    for line in _lines(redact_values(asdict(loaded.config))):
        comment = f"  # {loaded.sources.get(line.key, 'default')}" if line.key else ""
        text += f"{line.text:{COMMENT_COLUMN if comment else 0}}{comment}\n"
    return text


def _lines(values: Mapping[str, Any], prefix: str = "", indent: str = "") -> list[_Line]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines.append(_Line(f"{indent}{name}:"))
            lines += _lines(value, f"{prefix}{name}.", f"{indent}  ")
        else:
            lines.append(_Line(f"{indent}{name}: {_on_one_line(value)}", f"{prefix}{name}"))
    return lines


def _on_one_line(value: Any) -> str:
    """A value in YAML's flow style; a string with line breaks is quoted with escapes."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.dump(
        plain,
        Dumper=PlainDumper,
        default_flow_style=True,
        default_style=style,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")
