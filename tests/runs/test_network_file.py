import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from anynet_dist import build_anynet, load_model
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.network_file import (
    DTYPES,
    NetworkDescription,
    load_network,
    read_facts,
    save_network,
    write_description,
    write_state_dict,
    write_tensors,
)
from anynet_dist.system.errors import UserError
from anynet_dist.system.plugins import load_plugins

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


def test_the_same_network_makes_the_same_file_in_any_process(tmp_path: Path) -> None:
    facts = {f"fact{number}": "ü" * number for number in range(9)}
    program = (
        "import sys, torch; from pathlib import Path\n"
        "from anynet_dist.runs.network_file import save_network, NetworkDescription as Description\n"
        "torch.manual_seed(0)\n"
        f"save_network(Path(sys.argv[1]), torch.nn.Linear(2, 3), Description(model={{}}), **{facts!r})"
    )
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file in files:
        subprocess.run([sys.executable, "-c", program, str(file)], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as opened:
        assert json.loads(opened.metadata()["fact3"]) == "üüü"
        assert opened.get_tensor("weight").shape == (3, 2)


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


def plugged_in(folder: Path, name: str) -> Path:
    """A weight file in `folder` whose network has the stem `name`, of the plug-in parts/stem.py beside it,
    which leaves a file `stem.ran` where it runs."""
    plugin = folder / "parts" / "stem.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "from pathlib import Path\n"
        "from anynet_dist.models.registry import register_stem\n"
        "from anynet_dist.models.stems import ConvStem\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        f"register_stem('{name}')(type('Mine', (ConvStem,), {{'pooling': False}}))\n"
    )
    model = {**DESCRIPTION.model, "stem": name}
    description = replace(DESCRIPTION, model=model, plugins=["parts/stem.py"])
    save_network(folder / "model.safetensors", build_anynet(**DESCRIPTION.model), description)
    return folder / "model.safetensors"


def test_plug_ins_that_a_file_names_run_only_when_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    for folder in (theirs, elsewhere):
        folder.mkdir()
    file = plugged_in(theirs, "stem_when_allowed")
    plugged_in(elsewhere, "stem_of_the_working_folder")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match=rf"Python code: {theirs}/parts/stem\.py; .* --allow-plugins"):
        load_model(file)
    assert not list(tmp_path.rglob("*.ran"))
    network = load_model(theirs, allow_plugins=True)
    assert type(network.stem).__name__ == "Mine"
    assert list(tmp_path.rglob("*.ran")) == [theirs / "parts" / "stem.ran"]


def test_a_network_of_parts_that_are_registered_already_just_loads(tmp_path: Path) -> None:
    file = plugged_in(tmp_path, "stem_loaded_before")
    mine = tmp_path / "my_copy.py"
    mine.write_text((tmp_path / "parts" / "stem.py").read_text())
    load_plugins([mine])
    network, description = load_network(file)
    assert type(network.stem).__name__ == "Mine"
    assert description.plugins == [f"{tmp_path}/parts/stem.py"]
    assert not (tmp_path / "parts" / "stem.ran").exists()


def test_plug_ins_that_the_description_above_a_checkpoint_names_run_only_when_allowed(tmp_path: Path) -> None:
    file = plugged_in(tmp_path, "stem_of_a_run")
    checkpoint = tmp_path / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    described = replace(DESCRIPTION, model={**DESCRIPTION.model, "stem": "stem_of_a_run"})
    write_description(tmp_path / "network.json", replace(described, plugins=["parts/stem.py"]))
    write_tensors(checkpoint / "model.safetensors", build_anynet(**DESCRIPTION.model))
    file.unlink()
    with pytest.raises(UserError, match=rf"to run Python code: {tmp_path}/parts/stem\.py"):
        load_model(checkpoint)
    assert not (tmp_path / "parts" / "stem.ran").exists()
    assert type(load_model(checkpoint, allow_plugins=True).stem).__name__ == "Mine"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint in its run folder, with its manifest, and with another network as moving average."""
    folder = tmp_path / "run" / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    write_description(tmp_path / "run" / "network.json", DESCRIPTION)
    for name in ("model.safetensors", "ema.safetensors"):
        write_tensors(folder / name, build_anynet(**DESCRIPTION.model))
    (folder / "progress.json").write_text("{}")
    write_manifest(folder)
    return folder


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, r"ema\.safetensors is damaged: it has changed since the checkpoint was written"),
        (cut, r"ema\.safetensors is damaged: it has \d+ bytes instead of \d+"),
        (Path.unlink, r"step_00000001 is damaged: ema\.safetensors is missing"),
    ],
)
def test_weights_that_are_not_those_of_the_manifest_are_refused(
    checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    load_model(checkpoint)
    damage(checkpoint / "ema.safetensors")
    with pytest.raises(UserError, match=message):
        load_model(checkpoint)
    load_model(checkpoint, weights="raw")


def test_a_manifest_that_cannot_be_read_or_does_not_list_the_weights_is_refused(checkpoint: Path) -> None:
    manifest = checkpoint / "manifest.json"
    listed = json.loads(manifest.read_text())
    del listed["ema.safetensors"]
    manifest.write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"ema\.safetensors is not of the checkpoint .* does not list it"):
        load_model(checkpoint)
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(UserError, match=r"its manifest\.json cannot be read"):
        load_model(checkpoint, weights="raw")


def test_a_description_that_the_manifest_lists_is_compared_too(checkpoint: Path) -> None:
    write_description(checkpoint / "network.json", DESCRIPTION)
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    load_model(checkpoint)
    write_description(checkpoint / "network.json", replace(DESCRIPTION, resolution=32))
    with pytest.raises(UserError, match=r"network\.json is damaged: it has changed"):
        load_model(checkpoint)


def described_as(file: Path, text: str) -> None:
    """A weight file with `text` for its description."""
    save_file(build_anynet(**DESCRIPTION.model).state_dict(), file, {"format": "pt", "network": text})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": "large"}, "does not describe a network: resolution: Input should be a valid integer"),
        ({"mean": [0.5]}, "does not describe a network: mean"),
        ({"colours": 3}, "does not describe a network: colours: "),
        ({"model": {**DESCRIPTION.model, "wheels": 4}}, "network that cannot be built: .*'wheels'"),
        ({"model": {**DESCRIPTION.model, "stem": "none_such"}}, "cannot be built: unknown stem 'none_such'"),
        ({"model": {**DESCRIPTION.model, "block_type": [[]]}}, "cannot be built: "),
        (
            {"model": {**DESCRIPTION.model, "num_classes": 4}},
            "does not hold the weights of its own desc.*head",
        ),
    ],
)
def test_a_description_that_cannot_be_right_is_named_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    described_as(file, json.dumps(asdict(DESCRIPTION) | changes))
    with pytest.raises(UserError, match=f"model.safetensors .*{message}") as error:
        load_model(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"network"'])
def test_what_is_no_description_is_named(tmp_path: Path, text: str) -> None:
    described_as(tmp_path / "model.safetensors", text)
    with pytest.raises(UserError, match=r"model\.safetensors does not describe a network: "):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no tensors", bytes(100)])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        load_model(tmp_path)


def test_remarks_of_others_in_the_metadata_are_kept_as_texts(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file, {"author": "somebody", "epoch": "7"})
    assert read_facts(file) == {"author": "somebody", "epoch": 7}


def test_a_file_of_tensors_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {f"{name} {kind}": torch.ones(5).to(kind) for kind in DTYPES for name in ("b", "a")}
    tensors |= {"scalar": torch.tensor(3), "nothing": torch.zeros(0, 3), 'é"': torch.randn(2, 3)}
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write_state_dict(tmp_path / "ours", tensors | {"images": images}, {"format": "pt"})
    theirs = save(tensors | {"images": images.contiguous()}, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == theirs
