"""`base:` finds the shipped configs by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.system.errors import UserError
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["imagenet/resnet50.yaml", "anynet:imagenet/resnet50.yaml"])
def test_a_shipped_config_is_found_from_anywhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: {name}\noptim: {{lr: 0.5}}\n")
    loaded = load_config(tmp_path / "mine.yaml")
    expected = load_config(ROOT / "configs" / "imagenet" / "resnet50.yaml").config
    assert loaded.config.model == expected.model
    assert loaded.config.optim.lr == 0.5


def test_a_file_of_ones_own_has_precedence(tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "base.yaml").write_text("optim: {lr: 0.125}\n")
    (tmp_path / "mine.yaml").write_text("base: imagenet/base.yaml\n")
    (tmp_path / "theirs.yaml").write_text("base: anynet:imagenet/base.yaml\n")
    assert load_config(tmp_path / "mine.yaml").config.optim.lr == 0.125
    assert load_config(tmp_path / "theirs.yaml").config.optim.lr != 0.125


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: imagenet/resnet5.yaml\n")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "mine.yaml")
    assert "mine.yaml:1: base: there is no file" in str(caught.value)
    assert "did you mean 'imagenet/resnet50.yaml'?" in str(caught.value)
    assert "digits/demo.yaml" in str(caught.value)
