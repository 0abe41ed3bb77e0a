"""Files that FFCV's own DatasetWriter made, adopted and used by all loaders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.data.beton.adopt import adopt
from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.sidecar import companions, open_beton, sidecar_path
from anynet_dist.data.beton.staging import stage
from anynet_dist.data.beton.verify import verify_beton, verify_deep
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.samples import BetonSamples
from anynet_dist.system.errors import UserError
from tests.data.loading import make_eval

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("ffcv"), reason="FFCV is not installed")]

# Writes a file for each line of its input: path, order of the fields, file of the images.
WRITE = """
import sys, json
import numpy as np
from ffcv.fields import *
from ffcv.writer import DatasetWriter

class Samples:
    def __init__(self, order, images):
        self.order, self.images = order, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        index = int(index)
        label = index % 3
        values = {
            "image": self.images[index], "picture": self.images[index], "label": label, "y": float(label),
            "half": label + 0.5, "soft": np.full(4, 0.25, np.float32),
            "hot": np.eye(4, dtype=np.float32)[label],
            "one": np.array([label], np.int16), "score": index / 7, "id": index, "own": label,
            "text": np.frombuffer(b"word" * (index % 3), np.uint8), "about": {"number": index},
        }
        return tuple(values[name] for name in self.order)

arrays = {"hot": (np.float32, (4,)), "soft": (np.float32, (4,)), "one": (np.int16, (1,))}
fields = {"y": FloatField, "half": FloatField, "score": FloatField, "label": IntField, "id": IntField,
          "text": BytesField, "about": JSONField}
class OwnField(IntField):
    pass

for line in sys.stdin:
    path, order, name = json.loads(line)
    made = {}
    for field in order:
        if field == "own":
            made[field] = OwnField()
        elif field in arrays:
            dtype, shape = arrays[field]
            made[field] = NDArrayField(np.dtype(dtype), shape)
        elif field in fields:
            made[field] = fields[field]()
        else:
            made[field] = RGBImageField(write_mode="proportion" if "jpg" in path else "raw", jpeg_quality=95)
    writer = DatasetWriter(path, made, num_workers=1, page_size=2**21)
    writer.from_indexed_dataset(Samples(order, np.load(name)), chunksize=4)
    print(json.dumps(path), flush=True)
"""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    small = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    np.save(path, small.repeat(4, axis=1).repeat(4, axis=2))
    return path


@pytest.fixture(autouse=True)
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYNET_SIDECARS", str(tmp_path / "sidecars"))
    return tmp_path / "sidecars"


Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Write]:
    """Writes a file with FFCV's writer, in one process for all tests: importing FFCV there takes seconds."""
    errors = tmp_path_factory.mktemp("writer") / "errors"
    with errors.open("w") as file:
        command = [sys.executable, "-c", WRITE]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        )

    def request(path: Path, *order: str) -> Path:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([str(path), order, str(images)]) + "\n")
        process.stdin.flush()
        for line in process.stdout:  # until the process ends; beside it, the writer shows its progress
            if line.strip() == json.dumps(str(path)):
                return path
        pytest.fail(errors.read_text())

    with process:
        yield request
        process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ORDERS: dict[str, tuple[str, ...]] = {
    "as usual": ("image", "label"),
    "label first": ("label", "image"),
    "other names": ("y", "picture"),
    "extra fields": ("score", "about", "image", "text", "label", "id"),
    "one-hot": ("text", "image", "hot"),
    "an array of one": ("one", "image"),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_file_of_ffcvs_writer_gives_its_images_and_labels(
    order: tuple[str, ...], images: Path, write: Write, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.ffcv", *order)
    before = path.read_bytes()
    sidecar = adopt(path, workers=1).sidecar
    table, opened = open_beton(path)
    pixels, labels = np.load(images), np.arange(20) % 3
    assert opened == sidecar == verify_beton(path) == verify_deep(path, workers=1)
    assert path.read_bytes() == before
    assert np.array_equal(table.labels, labels)
    samples = BetonSamples(table)
    assert all(np.array_equal(samples.image(index), pixels[index]) for index in range(20))
    assert sidecar.classes == (("0", "1", "2", "3") if "hot" in order else ("0", "1", "2"))
    assert sidecar.class_counts[:3] == (7, 7, 6)
    np.testing.assert_allclose(sidecar.mean, pixels.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-12)
    np.testing.assert_allclose(sidecar.std, pixels.reshape(-1, 3).std(axis=0) / 255, rtol=1e-12)
    for name in ("ffcv", "torch", "device"):
        loader = make_eval(path, batch_size=8, resolution=16, loader=name, workers=1)
        batches = list(loader)
        loader.close()
        found = torch.cat([batch.permute(0, 2, 3, 1) for batch, _ in batches])
        assert np.allclose(found.numpy(), pixels, atol=1e-3), name
        assert np.array_equal(torch.cat([batch for _, batch in batches]).numpy(), labels), name


def test_jpegs_and_pixels_in_one_file(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "jpg.beton", "image", "label", "text")
    sidecar = adopt(path, workers=2).sidecar
    assert (sidecar.write_mode, sidecar.quality, sidecar.num_measured) == ("proportion", None, None)
    table, _ = open_beton(path)
    assert 0 < sidecar.compress_probability == (table.modes == 0).mean() < 1
    samples = BetonSamples(table)
    stored = np.stack([samples.image(index) for index in range(20)])
    np.testing.assert_allclose(sidecar.mean, stored.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-12)


@pytest.mark.parametrize(
    ("order", "choice", "message"),
    [
        (("image", "half"), {}, "sample 0 has the label 0.5; a label is the number of a class"),
        (("image", "soft"), {}, "sample 0 is not one-hot"),
        (("image", "picture", "label"), {"image_field": "photo"}, "none called 'photo'; .*--image-field"),
        (("picture", "text"), {}, "none that may be the label"),
        (("image", "id", "label"), {"label_field": "image"}, "none called 'image'; .*--label-field"),
        (("label", "text"), {}, "none that may be the image"),
        (("image", "label", "own"), {}, "its field 'own' is of a type of its author's own"),
    ],
)
def test_what_cannot_be_used_is_told(
    order: tuple[str, ...], choice: dict[str, Any], message: str, write: Write, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.beton", *order)
    with pytest.raises(BetonError, match=message):
        adopt(path, workers=1, **choice)
    assert [file.name for file in tmp_path.iterdir()] == ["a.beton"]


def test_of_several_fields_the_named_one_is_taken(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", "id", "image", "label")
    assert len(adopt(path, label_field="id", workers=1).sidecar.classes) == 20
    assert np.array_equal(open_beton(path)[0].labels, np.arange(20))


@pytest.mark.parametrize("text", ["cat\ndog\n\nhorse\nowl\n", '["cat", "dog", "horse", "owl"]'])
def test_classes_have_the_names_of_a_file(
    text: str, write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.beton", "image", "label")
    (tmp_path / "classes").write_text(text)
    assert adopt(path, classes_file=tmp_path / "classes", workers=1).sidecar.class_counts == (7, 7, 6, 0)
    assert open_dataset(path).classes == ("cat", "dog", "horse", "owl")
    assert "no images of 1 classes: owl" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog", "names 2 classes, but the labels in .* are of at least 3"),
        ("cat\ndog\ncat", "class 'cat' is named twice"),
        ('{"cat": 0}', "a JSON list of strings"),
        ("[1,", "is no JSON"),
    ],
)
def test_names_that_do_not_fit_are_refused(text: str, message: str, write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", "image", "label")
    (tmp_path / "classes").write_text(text)
    with pytest.raises(UserError, match=message):
        adopt(path, classes_file=tmp_path / "classes", workers=1)
    assert not sidecar_path(path).exists()


def test_the_sidecar_may_lie_elsewhere_and_is_staged_with_the_file(
    write: Write, tmp_path: Path, users_folder: Path
) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "train.ffcv", "image", "hot")
    adopted = adopt(path, elsewhere=True, workers=1)
    assert names(path.parent) == ["train.ffcv"]
    assert adopted.path.is_relative_to(users_folder)
    assert companions(path)[0] == adopted.path
    assert verify_deep(path, workers=1) == adopted.sidecar
    copy = stage(path, tmp_path / "disk").path
    assert names(copy.parent)[1:] == ["train.ffcv", "train.ffcv.crc32", "train.ffcv.json"]
    assert verify_deep(copy, workers=1) == adopted.sidecar
    with pytest.raises(UserError, match="exist already"):
        adopt(path, elsewhere=True, workers=1)
    assert adopt(path, elsewhere=True, workers=1, overwrite=True) == adopted


def test_without_a_sidecar_the_command_is_named_that_makes_it(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", "image", "label")
    with pytest.raises(BetonError, match=f"'anynet data adopt {path}' makes the sidecar"):
        open_beton(path)


def test_an_adopted_file_that_changes_is_refused(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", "label", "image", "text")
    adopt(path, workers=1)
    whole, table = path.read_bytes(), open_beton(path)[0]
    generator = np.random.default_rng(0)
    for place in generator.choice(int(table.starts[0]), 200):
        data = bytearray(whole)
        data[int(place) % (24 + 3 * 1041 + 20 * 40)] ^= 1
        path.write_bytes(data)
        with pytest.raises(BetonError):
            open_beton(path)
    data = bytearray(whole)
    data[int(table.starts[5])] ^= 1
    path.write_bytes(data)
    with pytest.raises(BetonError, match=r"sample 5 .*its bytes changed\sadopt it again"):
        verify_deep(path, workers=1)


def test_the_commands_take_such_a_file(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "train.ffcv", "y", "text", "picture")
    assert main(["data", "adopt", str(path), "--workers", "1"]) == 0
    assert f"sidecar: {path}.json" in capsys.readouterr().out
    assert main(["data", "inspect", str(path)]) == 0
    assert main(["data", "verify", str(path), "--deep", "--workers", "1"]) == 0
    (tmp_path / "config.yaml").write_text(f"data: {{train: {path}}}\nmodel: {{preset: resnet20}}\n")
    load_config(tmp_path / "config.yaml")
    capsys.readouterr()
    assert main(["data", "stage", str(tmp_path / "config.yaml"), "--to", str(tmp_path / "disk")]) == 0
    option, staged = capsys.readouterr().out.split()
    assert option == "--data.train"
    assert verify_beton(Path(staged)).num_samples == 20
