"""Numbers as people write them: read as python does, or refused in a sentence."""

from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.config.errors import ConfigError


@pytest.mark.parametrize("text", ["10_", "1__0", "_10", "0x10", "0o17", "1e1", "10.", "+", "1 0", "٣"])
@pytest.mark.parametrize("place", ["file", "command line"])
def test_odd_numbers_are_refused_in_a_sentence(tmp_path: Path, text: str, place: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"train:\n  epochs: {text}\n" if place == "file" else "train: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(config, [] if place == "file" else ["--train.epochs", text])
    assert "train.epochs: must be an integer >= 1 (got " in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("10", 10), ("1_0", 10), ("+10", 10), ("010", 10)])
def test_whole_numbers(tmp_path: Path, text: str, value: int) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"train:\n  epochs: {text}\n")
    assert load_config(config).config.train.epochs == value


@pytest.mark.parametrize("text", ["1_.5", "1_e3", "1__0.5", "0x1p3"])
def test_odd_fractions(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"optim:\n  lr: {text}\n")
    with pytest.raises(ConfigError, match=r"optim\.lr: must be a number > 0 \(got "):
        load_config(config)
