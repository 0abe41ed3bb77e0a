from pathlib import Path

import pytest
import torch

from anynet_dist import build_anynet, load_model
from anynet_dist.system.errors import UserError
from anynet_dist.training.weights import NetworkDescription, load_network, save_network

DESCRIPTION = NetworkDescription(
    model={"num_blocks_per_stage": [1], "num_channels": [8, 16], "num_classes": 3},
    classes=("cat", "dog", "rat"),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    resolution=48,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = build_anynet(**DESCRIPTION.model)
    network(torch.randn(4, 3, 48, 48))  # moves the batch-norm statistics
    save_network(tmp_path / "model.safetensors", network, DESCRIPTION, top1=0.5)
    torch.save(network.state_dict(), tmp_path / "expected.pt")
    return tmp_path


def test_a_file_alone_says_how_to_build_its_network(saved: Path) -> None:
    network, description = load_network(saved / "model.safetensors")
    expected = torch.load(saved / "expected.pt", weights_only=True)
    assert description == DESCRIPTION
    assert not network.training
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_a_run_folder_is_as_good_as_the_file_in_it(saved: Path) -> None:
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(load_model(saved)(images), load_model(saved / "model.safetensors")(images))


def test_others_may_read_the_file(saved: Path) -> None:
    reference = saved / "reference"
    reference.touch()
    assert (saved / "model.safetensors").stat().st_mode == reference.stat().st_mode


def test_a_damaged_file_is_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        load_model(saved)


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained network"):
        load_model(tmp_path)


def test_an_unfinished_run_points_to_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "last").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"unfinished run: name one of its checkpoints, .*checkpoints/last or best"
    ):
        load_model(tmp_path)
