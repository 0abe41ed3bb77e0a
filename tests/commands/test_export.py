import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from anynet_dist.cli import main
from anynet_dist.commands.export import FORMATS
from anynet_dist.export import exporter
from anynet_dist.models.anynet import build_anynet
from anynet_dist.runs.network_file import NetworkDescription, load_model, save_network


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """What the command does to the log of this process ends with the test."""
    logger = logging.getLogger("anynet_dist")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.captureWarnings(False)


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    description = NetworkDescription(
        model={"num_blocks_per_stage": [1], "num_channels": [8, 16], "num_classes": 3},
        classes=("cat", "dog", "rat"),
        resolution=16,
    )
    save_network(tmp_path / "net.safetensors", build_anynet(**description.model), description)
    return tmp_path / "net.safetensors"


def test_the_command_knows_all_formats() -> None:
    assert {*exporter.FORMATS, "hub-folder", "timm"} == set(FORMATS)


def test_a_file_is_written_and_the_difference_told(
    network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x" / "net.pt"
    assert main(["export", str(network_file), "--to", "torchscript", "--fold-bn", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "folded 5 of 5 batch norms into convolutions" in shown
    assert f"wrote {out} (" in shown
    assert "largest difference from the trained network: " in shown
    assert out.is_file()


def test_a_hub_folder_is_written(
    network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(network_file), "--to", "hub-folder", "--out", str(tmp_path / "hub")]) == 0
    assert f"wrote {tmp_path / 'hub'}" in capsys.readouterr().out
    assert load_model(tmp_path / "hub").spec == load_model(network_file).spec


def test_an_export_that_is_there_is_replaced_only_when_told(
    network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(network_file), "--to", "torchscript"]
    exported = tmp_path / "export" / "model.pt"
    exported.parent.mkdir()
    exported.write_text("mine")
    assert main(words) == 2
    assert f"{exported} exists already: write elsewhere, or replace with --ov" in capsys.readouterr().err
    assert exported.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert exported.stat().st_size > 1000


def test_a_hub_folder_asks_for_its_own_files_only(
    network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    words = ["export", str(network_file), "--to", "hub-folder", "--out", str(folder)]
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    (folder / "README.md").write_text("mine")
    assert main(words) == 2
    assert f"error: {folder}/README.md exists already" in capsys.readouterr().err
    assert {file.name: file.read_text() for file in folder.iterdir()} == dict.fromkeys(
        ["photo.jpg", "README.md"], "mine"
    )
    assert main([*words, "--overwrite"]) == 0
    assert (folder / "photo.jpg").read_text() == "mine"
    assert "# AnyNet" in (folder / "README.md").read_text()


@pytest.mark.parametrize("to", ["safetensors", "torchscript", "hub-folder"])
def test_an_export_does_not_take_the_place_of_a_pipe(
    network_file: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for overwrite in ([], ["--overwrite"]):
        assert main(["export", str(network_file), "--to", to, "--out", str(pipe), *overwrite]) == 2
        assert f"{pipe} is " in capsys.readouterr().err
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onxx"], "argument --to: invalid choice: 'onxx'"),
        (["--to", "onnx", "--push", "me/net"], "--push uploads a Hub folder: add --to hub-folder"),
        (["--to", "hub-folder", "--fold-bn"], "--fold-bn have no effect on hub-folder"),
        (["--to", "hub-folder", "--private"], "--private has no effect without --push"),
        (["--to", "hub-folder", "--push", "me//net"], "--push me//net: "),
        (["--to", "safetensors", "--tolerance", "-1"], "--tolerance must be a number above 0, not -1"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    network_file: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(network_file), *words]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in network_file.parent.iterdir()] == [network_file.name]


@pytest.mark.slow
def test_pushing_needs_a_login_and_a_hub_that_answers(
    network_file: Path,
    tmp_path: Path,
    launch: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    words = ("export", network_file, "--to", "hub-folder", "--out", tmp_path / "hub", "--push", "me/net")
    done = launch(*words, check=False)
    assert done.returncode == 2
    assert "--push needs a login to the Hugging Face Hub: run 'hf auth login'" in done.stderr
    assert not (tmp_path / "hub").exists()

    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    done = launch(*words, check=False)
    assert done.returncode == 2
    assert "--push me/net: " in done.stderr
    assert f"the folder is kept: {tmp_path / 'hub'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "hub" / "README.md").is_file()
