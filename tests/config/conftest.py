from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from anynet_dist.config import ConfigError, load_config


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write files into a fresh working directory: write(child="optim: ...") makes child.yaml."""
    monkeypatch.chdir(tmp_path)

    def write_files(**texts: str) -> None:
        for name, text in texts.items():
            path = Path(f"{name.replace('__', '/')}.yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")

    return write_files


@pytest.fixture
def errors(write: Callable[..., None]) -> Callable[..., list[str]]:
    """The lines of the error that loading c.yaml with this text gives."""

    def lines(text: str, *overrides: str) -> list[str]:
        write(c=text)
        with pytest.raises(ConfigError) as caught:
            load_config("c.yaml", overrides)
        return str(caught.value).splitlines()

    return lines
