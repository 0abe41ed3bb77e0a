import json
from pathlib import Path

import pytest

from anynet_dist.cli import main
from anynet_dist.models.anynet import build_anynet
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.network_file import NetworkDescription, save_network


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    """A network for the blobs, with class names that rich would take for markup."""
    description = NetworkDescription(
        model={"num_blocks_per_stage": [1], "num_channels": [8, 16], "num_classes": 3},
        classes=("[red]", "green", "blue"),
        resolution=16,
    )
    save_network(tmp_path / "net.safetensors", build_anynet(**description.model), description)
    return tmp_path / "net.safetensors"


def test_json_has_an_object_for_each_image(
    network_file: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(network_file), str(blobs / "val"), "--top", "2", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in entries] == sorted(map(str, (blobs / "val").rglob("*.png")))
    for entry in entries:
        first, second = entry["predictions"]
        assert first["probability"] >= second["probability"]
        assert first["name"] == ("[red]", "green", "blue")[first["index"]]


def test_the_table_names_all_classes_and_files_in_full(
    network_file: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((blobs / "val").rglob("*.png"))
    assert main(["predict", str(network_file), str(image)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in (str(image), "[red]", "green", "blue", "%"))


def test_a_skipped_image_is_named_and_the_exit_code_is_1(
    network_file: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = tmp_path / "broken.jpg", next((blobs / "val").rglob("*.png"))
    broken.write_bytes(b"\xff\xd8 no more than the beginning")
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(network_file), str(broken), str(whole), *options])
        assert ended.value.code == 1
        shown = capsys.readouterr()
        assert f"skipped {broken}: " in shown.err
        assert str(whole) in shown.out
    entry, _ = json.loads(shown.out)
    assert entry["image"] == str(broken)
    assert entry["error"]


def test_a_damaged_checkpoint_is_2(
    network_file: Path, tmp_path: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "step_00000001"
    checkpoint.mkdir()
    network_file.rename(checkpoint / "model.safetensors")
    write_manifest(checkpoint)
    assert main(["predict", str(checkpoint), str(blobs / "val")]) == 0
    (checkpoint / "model.safetensors").write_bytes(
        (checkpoint / "model.safetensors").read_bytes()[:-1] + b"?"
    )
    for words in (["predict", str(checkpoint), "x.png"], ["export", str(checkpoint), "--to", "safetensors"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"{checkpoint}/model.safetensors is damaged: it has changed since the checkpoint" in error
    assert not (tmp_path / "export").exists()


def test_a_wrong_network_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path), "x.png"]) == 2
    assert "holds no trained network" in capsys.readouterr().err
