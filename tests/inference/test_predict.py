import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anynet_dist.config import load_config
from anynet_dist.data.decoding import decode
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import eval_loader
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.inference.predict import find_images, predict, prepare
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.runs.network_file import NetworkDescription
from anynet_dist.system.errors import UserError
from anynet_dist.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of several sizes, formats and modes, all of one class."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures" / "any"
    folder.mkdir(parents=True)
    sizes = [(40, 60), (61, 33), (24, 24), (10, 12), (128, 128)]
    for number, (height, width) in enumerate(sizes):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
        Image.fromarray(pixels).convert("LA").save(folder / f"{number}.png")
    return folder.parent


@pytest.mark.parametrize("crop_ratio", [0.875, None])
def test_pixels_are_those_of_evaluation(
    trained: TrainedNetwork, pictures: Path, crop_ratio: float | None
) -> None:
    description = NetworkDescription(
        model={}, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), resolution=24, crop_ratio=crop_ratio
    )
    files = find_images([pictures])
    if crop_ratio is None:  # evaluation takes images whole when all are squares
        for file in files:
            Image.open(file).convert("RGB").resize((31, 31)).save(file)
    loader = eval_loader(
        pictures,
        batch_size=64,
        resolution=24,
        normalisation=Normalisation(description.mean, description.std),
        crop_ratio=crop_ratio,
        placement=Placement(workers=1),
        loader="torch",
    )
    ((expected, _),) = loader
    loader.close()
    assert torch.equal(prepare([decode(file.read_bytes()) for file in files], description, CPU), expected)


@pytest.mark.usefixtures("fresh_accelerate")
def test_predictions_are_as_right_as_the_run_reported(
    blobs_config: Path, blobs: Path, tmp_path: Path
) -> None:
    result = Trainer(load_config(blobs_config).config).fit()
    predictions = list(predict(tmp_path / "run", [blobs / "val"], top=1))
    hits = [Path(prediction.image).parent.name == prediction.guesses[0].name for prediction in predictions]
    assert len(hits) == 37
    assert sum(hits) / 37 == result["test/top1"]


def test_guesses_are_the_most_probable_classes_best_first(trained: TrainedNetwork, pictures: Path) -> None:
    (file,) = find_images([pictures / "any" / "0.jpg"])
    (prediction,) = predict(trained.file, [file])
    images = prepare([decode(file.read_bytes())], trained.description, CPU)
    probabilities = trained.network(images).softmax(1)[0]
    assert [guess.index for guess in prediction.guesses] == probabilities.argsort(descending=True).tolist()
    for guess in prediction.guesses:
        assert guess.name == ("cat", "dog", "rat")[guess.index]
        assert guess.probability == pytest.approx(probabilities[guess.index].item(), rel=1e-4)
    assert len(next(predict(trained.file, [file], top=2)).guesses) == 2


def test_a_broken_image_is_named_and_the_others_go_on(trained: TrainedNetwork, pictures: Path) -> None:
    folder = pictures / "any"
    whole = (folder / "4.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "4.png").read_bytes()[:500])
    (folder / "text.jpeg").write_text("not an image")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not meant to be one")
    missing = folder / "missing.jpg"
    predictions = {p.image: p for p in predict(trained.file, [pictures, missing])}
    broken = {Path(image).name for image, prediction in predictions.items() if prediction.error}
    assert broken == {"cut.jpg", "cut.png", "text.jpeg", "empty.png", "missing.jpg"}
    assert predictions[str(missing)].error == "No such file or directory"
    assert not any(predictions[str(folder / name)].guesses for name in broken)
    alone = {p.image: p for p in predict(trained.file, [folder / "0.jpg", folder / "4.png"], top=1)}
    for image, prediction in alone.items():
        assert predictions[image].guesses[0].name == prediction.guesses[0].name
    assert len(predictions) == 15


def test_more_images_than_a_batch_keep_their_order(trained: TrainedNetwork, pictures: Path) -> None:
    files = find_images([pictures])
    assert files == sorted(files)
    predictions = list(predict(trained.file, files * 7, top=1))
    assert [p.image for p in predictions] == [str(file) for file in files * 7]
    names = [p.guesses[0].name for p in predictions]
    assert names == names[: len(files)] * 7


def test_outputs_without_a_name_are_numbered(trained: TrainedNetwork, pictures: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from anynet_dist.runs.network_file import save_network

    unnamed = replace(trained.description, classes=("cat",))
    save_network(tmp_path / "unnamed.safetensors", trained.network, unnamed)
    (prediction,) = predict(tmp_path / "unnamed.safetensors", [pictures / "any" / "0.png"])
    assert {guess.name for guess in prediction.guesses} == {"cat", "class 1", "class 2"}


def test_wrong_arguments_are_refused_before_anything_is_predicted(
    trained: TrainedNetwork, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing: no images in this folder \(known: .*\.bmp,"):
        predict(trained.file, [tmp_path / "nothing"])
    with pytest.raises(UserError, match="--top must be at least 1, not 0"):
        predict(trained.file, [tmp_path], top=0)
    with pytest.raises(UserError, match="holds no trained network"):
        predict(tmp_path / "nothing", [tmp_path])


def test_what_cannot_be_an_image_is_named_and_the_others_go_on(
    network_file: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("ANYNET_MAX_IMAGE_PIXELS", "16000")  # 128 x 128 are more
    os.mkfifo(pictures / "any" / "pipe.jpg")
    found = {Path(result.image).name: result.error for result in predict(network_file, [pictures])}
    assert found.pop("pipe.jpg") == "is a named pipe, not a file"
    for name in ("4.jpg", "4.png"):
        assert "(16384 pixels) exceeds limit of 16000 pixels" in (found.pop(name) or "")
    assert set(found.values()) == {None}
    (named,) = predict(network_file, [pictures / "any" / "pipe.jpg"])
    assert named.error == "is a named pipe, not a file"
