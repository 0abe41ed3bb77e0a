"""A run keeps the plug-in files that its network needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.runs.network_file import load_network
from anynet_dist.runs.plugin_files import kept_names
from anynet_dist.system.errors import UserError
from anynet_dist.training.trainer import Trainer
from tests.conftest import Launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SOURCE = """
from torch import nn
from anynet_dist import register_block

@register_block("kept_block")
class Mine(nn.Sequential):
    def __init__(self, width_in, width_out, stride):
        super().__init__(nn.Conv2d(width_in, width_out, 3, stride, 1), nn.ReLU())
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "blocks.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def options(plugin: Path, *more: str) -> tuple[str, ...]:
    return ("--plugins", str(plugin), "--model.block_type", "kept_block", *more)


def fit(config: Path, *overrides: str) -> None:
    Trainer(load_config(config, overrides).config).fit()


@pytest.mark.slow
def test_a_network_loads_when_its_plugin_and_its_run_have_moved(
    blobs_config: Path, plugin: Path, tmp_path: Path, launch: Launch
) -> None:
    launch("train", blobs_config, *options(plugin))
    shutil.rmtree(plugin.parent)
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    refused = launch("eval", moved, check=False)
    assert refused.returncode == 2
    assert f"asks to run Python code: {moved}/plugins/blocks.py; read it" in refused.stderr
    for path in (moved, moved / "checkpoints" / "last"):
        assert "top1" in launch("eval", path, "--allow-plugins", "--json").stdout


def test_a_run_goes_on_with_its_copy_when_the_plugin_is_gone_or_has_changed(
    blobs_config: Path, plugin: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(blobs_config, *options(plugin))
    copy = tmp_path / "run" / "plugins" / "blocks.py"
    assert copy.read_text() == SOURCE

    plugin.write_text(SOURCE.replace("nn.ReLU()", "nn.GELU()"))
    fit(blobs_config, *options(plugin, "--resume", "auto", "--train.epochs", "3"))
    assert f"plugin {plugin} has changed since the run started: the run continues with its own" in caplog.text
    assert copy.read_text() == SOURCE

    plugin.unlink()
    fit(blobs_config, *options(plugin, "--resume", "auto", "--train.epochs", "4"))
    assert f"plugin {plugin} is gone: the run's own copy {copy} takes its place" in caplog.text
    fit(tmp_path / "run" / "config.yaml", "--resume", "auto", "--train.epochs", "5")


def test_a_plugin_that_has_moved_is_no_change_and_a_changed_one_is_taken_on_request(
    blobs_config: Path, plugin: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(blobs_config, *options(plugin))
    moved = plugin.rename(tmp_path / "blocks.py")
    fit(blobs_config, *options(moved, "--resume", "auto", "--train.epochs", "3"))
    assert not [record for record in caplog.messages if record.startswith("plugin ")]

    changed = SOURCE.replace("nn.ReLU()", "nn.GELU()")
    moved.write_text(changed)
    fit(blobs_config, *options(moved, "--resume", "auto", "--train.epochs", "4", "--allow-config-change"))
    assert f"plugin {moved} has changed since the run started, and is used as it is now" in caplog.text
    assert (tmp_path / "run" / "plugins" / "blocks.py").read_text() == changed
    network, _ = load_network(tmp_path / "run", allow_plugins=True)
    assert "GELU" in str(network)


@pytest.mark.slow
def test_a_run_that_starts_afresh_keeps_the_plugin_of_now_and_other_files_beside_it(
    blobs_config: Path, plugin: Path, tmp_path: Path
) -> None:
    fit(blobs_config, *options(plugin))
    beside = tmp_path / "run" / "plugins" / "notes.txt"
    beside.write_text("mine")
    renamed = plugin.rename(plugin.with_name("renamed.py"))
    fit(blobs_config, *options(renamed, "--run.overwrite", "true"))
    assert sorted(path.name for path in beside.parent.iterdir()) == ["notes.txt", "renamed.py"]
    fit(tmp_path / "run" / "config.yaml", "--run.overwrite", "true")
    renamed.unlink()
    fit(tmp_path / "run" / "config.yaml", "--run.overwrite", "true")
    assert (beside.parent / "renamed.py").read_text() == SOURCE


def test_a_missing_plugin_without_a_copy_is_refused(blobs_config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plugin .*/gone\.py: no such file"):
        fit(blobs_config, *options(tmp_path / "gone.py"))


def test_files_of_one_name_are_told_apart() -> None:
    assert kept_names(["a/blocks.py", "b/blocks.py", "c/heads.py"]) == [
        "blocks.py",
        "blocks_2.py",
        "heads.py",
    ]
    assert kept_names(["blocks_2.py", "a/blocks.py", "b/blocks.py"]) == [
        "blocks_2.py",
        "blocks.py",
        "blocks_3.py",
    ]
