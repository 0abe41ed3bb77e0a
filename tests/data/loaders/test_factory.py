"""What every loader promises, on the same data."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders.base import Loader
from anynet_dist.data.order import epoch_order, split_indices
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.system.errors import UserError
from tests.data.loading import make_eval, make_train

PAIR = ["torch", *(["ffcv"] if importlib.util.find_spec("ffcv") else [])]
NAMES = [*PAIR, "device"]
CIFAR_STYLE = Augmentation(flip=True, translate=4, cutout=8)
AIRBENCH_STYLE = Augmentation(flip=True, flip_mode="alternate", translate=2, translate_padding="reflect")
TORCHVISION_STYLE = Augmentation(
    flip=True, cutout=8, auto_augment="randaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), random_erasing=0.5
)
STYLES = [TORCHVISION_STYLE, Augmentation(auto_augment="trivialaugment")]
if importlib.util.find_spec("timm"):
    STYLES.append(Augmentation(auto_augment="timm:rand-m7-mstd0.5-inc1"))
IMAGENET_STYLE = Augmentation(flip=True, random_resized_crop=True)

Make = Callable[..., Loader]


@pytest.fixture
def train() -> Iterator[Make]:
    """Makes training loaders that are closed at the end of the test."""
    yield from factory(make_train, global_batch=100, seed=3, resolution=32)


@pytest.fixture
def evaluate() -> Iterator[Make]:
    """Makes evaluation loaders that are closed at the end of the test."""
    yield from factory(make_eval, batch_size=100, resolution=32)


def factory(make: Callable[..., Loader], **defaults: Any) -> Iterator[Make]:
    made: list[Loader] = []

    def build(path: Path, loader: str, workers: int = 1, **options: Any) -> Loader:
        workers = 0 if loader == "torch" and workers == 1 else workers
        made.append(make(path, loader=loader, **{**defaults, "workers": workers, **options}))
        return made[-1]

    yield build
    for loader in made:
        loader.close()


def epoch(loader: Loader, number: int = 0, first_batch: int = 0) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch."""
    loader.set_epoch(number, first_batch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("name", NAMES)
def test_training_order_is_that_of_seed_and_epoch(name: str, digits: Path, train: Make) -> None:
    loader = train(digits / "train.beton", name)
    info = open_dataset(digits / "train.beton")
    assert len(loader) == 14
    for number in (0, 3):
        images, labels = epoch(loader, number)
        order = epoch_order(1437, 3, number)[:1400]
        assert labels.dtype == torch.int64
        assert np.array_equal(labels.numpy(), info.labels[order])
        stored = np.stack([info.samples.image(i) for i in order])
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), stored)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_with_accumulation_share_the_global_batches_of_one(
    name: str, digits: Path, train: Make
) -> None:
    options = {"global_batch": 96, "augment": CIFAR_STYLE}
    whole, _ = epoch(train(digits / "train.beton", name, **options), 1)
    ranks = [
        epoch(train(digits / "train.beton", name, accumulation=2, rank=rank, world=2, **options), 1)[0]
        for rank in range(2)
    ]
    parts = torch.stack([part.view(-1, 24, 3, 32, 32) for part in ranks], dim=1)
    assert torch.equal(parts.flatten(0, 2), whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_last_batch_that_is_kept_is_shared_by_ranks_and_accumulated_steps(
    name: str, digits: Path, train: Make
) -> None:
    options = {"global_batch": 96, "augment": CIFAR_STYLE, "drop_last": False}
    whole, _ = epoch(train(digits / "train.beton", name, **options), 1)
    assert len(whole) == 1437
    ranks = [
        train(digits / "train.beton", name, accumulation=2, rank=r, world=2, **options) for r in range(2)
    ]
    parts = []
    for loader in ranks:
        loader.set_epoch(1, first_batch=28)
        parts.append([images for images, _ in loader])
    assert [[len(part) for part in rank] for rank in parts] == [[24, 23], [23, 23]]
    shared = torch.cat([part for pair in zip(*parts, strict=True) for part in pair])
    assert torch.equal(shared, whole[14 * 96 :])


@pytest.mark.parametrize("name", NAMES)
def test_resume_by_index_gives_the_tail_of_the_epoch(name: str, digits: Path, train: Make) -> None:
    loader = train(digits / "train.beton", name, augment=CIFAR_STYLE)
    images, labels = epoch(loader, 2)
    tail_images, tail_labels = epoch(loader, 2, first_batch=11)
    assert torch.equal(tail_images, images[1100:])
    assert torch.equal(tail_labels, labels[1100:])
    assert len(loader) == 14


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_is_the_same_for_any_number_of_workers(name: str, digits: Path, train: Make) -> None:
    one, two = (train(digits / "train.beton", name, workers=n, augment=CIFAR_STYLE) for n in (1, 2))
    first, second = epoch(one, 0)[0], epoch(one, 1)[0]
    assert torch.equal(epoch(two, 0)[0], first)
    assert torch.equal(epoch(two, 1)[0], second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_batches_that_are_kept_do_not_change(name: str, digits: Path, train: Make) -> None:
    loader = train(digits / "train.beton", name)
    kept, copies = [], []
    for images, labels in loader:
        kept.append((images, labels))
        copies.append((images.clone(), labels.clone()))
    list(loader)
    for (images, labels), (image_copy, label_copy) in zip(kept, copies, strict=True):
        assert torch.equal(images, image_copy)
        assert torch.equal(labels, label_copy)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_covers_every_sample_once(name: str, world: int, digits: Path, evaluate: Make) -> None:
    info = open_dataset(digits / "val.beton")
    seen = 0
    for rank in range(world):
        loader = evaluate(digits / "val.beton", name, rank=rank, world=world, batch_size=33)
        images, labels = epoch(loader)
        expected = np.stack([info.samples.image(i) for i in range(rank, 360, world)])
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
        assert np.array_equal(labels.numpy(), info.labels[rank::world])
        assert len(loader) == -(-len(labels) // 33)
        seen += len(labels)
    assert seen == 360


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_may_have_nothing_to_evaluate(name: str, digits: Path, evaluate: Make) -> None:
    loader = evaluate(digits / "val.beton", name, indices=np.array([5, 7]), rank=2, world=3)
    assert len(loader) == 0
    assert list(loader) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_last_batch_of_one_keeps_its_shape(name: str, digits: Path, evaluate: Make) -> None:
    loader = evaluate(digits / "val.beton", name, indices=np.arange(11), batch_size=10)
    shapes = [(tuple(images.shape), tuple(labels.shape)) for images, labels in loader]
    assert shapes == [((10, 3, 32, 32), (10,)), ((1, 3, 32, 32), (1,))]


@pytest.mark.parametrize("name", NAMES)
def test_train_and_validation_parts_do_not_meet(name: str, digits: Path, train: Make, evaluate: Make) -> None:
    part, held_out = split_indices(1437, 0.1, seed=0)
    trained, _ = epoch(train(digits / "train.beton", name, indices=part, global_batch=1))
    held, _ = epoch(evaluate(digits / "train.beton", name, indices=held_out))
    assert (len(trained), len(held)) == (1293, 144)
    seen = {image.numpy().tobytes() for image in trained}
    assert not any(image.numpy().tobytes() in seen for image in held)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalisation_is_exact(name: str, channels_last: bool, digits: Path, evaluate: Make) -> None:
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
    plain, _ = epoch(evaluate(digits / "val.beton", name))
    loader = evaluate(digits / "val.beton", name, mean=mean, std=std, channels_last=channels_last)
    images, _ = epoch(loader)
    channels = [torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std)]
    expected = (plain.double() / 255 - channels[0]) / channels[1]
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=2e-6)
    first = next(iter(loader))[0]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert first.is_contiguous(memory_format=layout)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("style", [CIFAR_STYLE, AIRBENCH_STYLE])
def test_all_loaders_train_on_the_very_same_pixels(
    name: str, style: Augmentation, digits: Path, train: Make
) -> None:
    options = {"augment": replace(style, repeats=2), "mean": (0.1, 0.2, 0.3)}
    first, second = (train(digits / "train.beton", choice, **options) for choice in ("torch", name))
    for number in (0, 5):
        for ours, theirs in zip(epoch(first, number), epoch(second, number), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_repeats_are_differently_augmented_copies_side_by_side(name: str, digits: Path, train: Make) -> None:
    tripled = replace(CIFAR_STYLE, repeats=3)
    plain, labels = epoch(
        train(digits / "train.beton", name, global_batch=99, augment=Augmentation(repeats=3)), 1
    )
    order = np.repeat(epoch_order(1437, 3, 1), 3)[: len(labels)]
    assert len(labels) == 14 * 99
    assert np.array_equal(labels.numpy(), open_dataset(digits / "train.beton").labels[order])
    assert torch.equal(plain[0::3], plain[1::3])
    moved, _ = epoch(train(digits / "train.beton", name, global_batch=99, augment=tripled), 1)
    same = (moved[0::3] == moved[1::3]).flatten(1).all(dim=1)
    assert same.float().mean() < 0.05
    shares = [
        train(digits / "train.beton", name, global_batch=98, augment=tripled, rank=rank, world=2)
        for rank in range(2)
    ]
    ranks = torch.stack([epoch(share, 1)[0].view(-1, 49, 3, 32, 32) for share in shares], dim=1)
    whole = train(digits / "train.beton", name, global_batch=98, augment=tripled)
    assert torch.equal(ranks.flatten(0, 2), epoch(whole, 1)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("largest", [24, 40])
def test_the_resolution_changes_without_a_new_loader(
    name: str, largest: int, digits: Path, train: Make
) -> None:
    options = {"augment": CIFAR_STYLE, "workers": 2}
    loader = train(digits / "train.beton", name, resolution=largest, **options)
    loader.set_resolution(24)
    first = epoch(loader, 0)[0]
    for resolution in (40, 24, 32):
        loader.set_resolution(resolution)
        changed = epoch(loader, 0)[0]
        fresh = epoch(train(digits / "train.beton", name, resolution=resolution, **options), 0)[0]
        assert changed.shape[2:] == (resolution, resolution)
        assert torch.equal(changed, fresh)
    loader.set_resolution(24)
    assert torch.equal(epoch(loader, 0)[0], first)
    with pytest.raises(UserError, match="cutout of 8 pixels leaves nothing of an image of 8"):
        loader.set_resolution(8)


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_torchvisions_policies_depend_on_seed_epoch_and_sample_alone(
    style: Augmentation, digits: Path, train: Make
) -> None:
    loaders = [
        train(digits / "train.beton", name, workers=workers, augment=style, indices=np.arange(200))
        for name, workers in (("torch", 1), ("torch", 2), ("device", 1))
    ]
    before, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    first, *others = (epoch(loader, 1)[0] for loader in loaders)
    for other in others:
        assert torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python
    after = np.random.get_state(legacy=False)
    assert np.array_equal(after["state"]["key"], numpy["state"]["key"])
    assert after["state"]["pos"] == numpy["state"]["pos"]
    plain = train(digits / "train.beton", "torch", indices=np.arange(200), augment=Augmentation(flip=True))
    assert (epoch(plain, 1)[0] != first).any(dim=(1, 2, 3)).float().mean() > 0.7
    assert not torch.equal(epoch(loaders[0], 2)[0], first)


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in PAIR, reason="FFCV is not installed")
def test_what_ffcv_cannot_do_is_refused_or_left_to_torch(
    digits: Path, train: Make, evaluate: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with pytest.raises(UserError, match=r"cannot do color_jitter, auto_augment, random_erasing: take loader"):
        train(digits / "train.beton", "ffcv", augment=TORCHVISION_STYLE)
    with pytest.raises(UserError, match="cannot do eval_resize: bilinear"):
        evaluate(digits / "val.beton", "ffcv", eval_resize="bilinear")
    train(digits / "train.beton", "auto", augment=TORCHVISION_STYLE)
    assert any("loader: torch, because FFCV cannot do color_jitter" in message for message in caplog.messages)


def difference(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Mean and largest difference of an image's mean, in 0..255."""
    per_image = (first - second).abs().mean(dim=(1, 2, 3))
    return per_image.mean().item(), per_image.max().item()


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in PAIR, reason="FFCV is not installed")
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_photos_look_alike_in_both_loaders(
    mode: str, photo_betons: Path, train: Make, evaluate: Make
) -> None:
    """FFCV averages areas, torchvision interpolates with antialiasing: 3 of 255 levels apart on average at
    most."""
    path = photo_betons / f"{mode}.beton"
    torchs, ffcv = (epoch(evaluate(path, name, resolution=64, crop_ratio=0.875)) for name in PAIR)
    mean, largest = difference(ffcv[0], torchs[0])
    assert mean < 3
    assert largest < 8
    torchs, ffcv = (
        epoch(train(path, name, resolution=64, global_batch=8, augment=IMAGENET_STYLE)) for name in PAIR
    )
    mean, largest = difference(ffcv[0], torchs[0])
    assert mean < 5
    assert torch.equal(ffcv[1], torchs[1])


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in PAIR, reason="FFCV is not installed")
@pytest.mark.parametrize("resolution", [64, 200])
def test_with_area_resizing_both_loaders_evaluate_the_same_pixels(
    resolution: int, photo_betons: Path, evaluate: Make
) -> None:
    """Rounding apart: one level in a few pixels of a hundred (OpenCV enlarges in fixed-point numbers)."""
    path, options = photo_betons / "raw.beton", {"resolution": resolution, "crop_ratio": 0.875}
    torchs, ffcv = (epoch(evaluate(path, name, eval_resize="area", **options))[0] for name in PAIR)
    assert (ffcv - torchs).abs().max() <= 1
    assert (ffcv != torchs).float().mean() < 0.05


@pytest.mark.parametrize("style", [None, IMAGENET_STYLE])
def test_the_device_loader_resizes_as_torchvision_does(
    style: Augmentation | None, digits: Path, train: Make, evaluate: Make
) -> None:
    for resolution in (20, 48):
        options = {"resolution": resolution, "indices": np.arange(100)}
        if style is None:
            made = [
                evaluate(digits / "train.beton", n, crop_ratio=0.875, **options) for n in ("torch", "device")
            ]
        else:
            made = [train(digits / "train.beton", n, augment=style, **options) for n in ("torch", "device")]
        first, second = (epoch(loader)[0] for loader in made)
        assert (first - second).abs().max() <= 2
        assert (first != second).float().mean() < 0.05


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in PAIR, reason="FFCV is not installed")
def test_without_resizing_photos_are_the_same(photo_betons: Path, evaluate: Make) -> None:
    """A crop as large as the resolution needs no resizing: raw pixels are equal.

    FFCV decodes JPEGs with libjpeg's fast transform: up to 10 levels apart in a pixel, about 1 on average.
    """
    info = open_dataset(photo_betons / "raw.beton")
    assert info.table is not None
    sides = np.minimum(info.table.heights, info.table.widths)
    index = np.array([int(np.argmax(sides))])
    side = int(sides[index[0]])
    for mode, largest, mean in (("raw", 0, 0), ("jpg", 10, 1.5)):
        path = photo_betons / f"{mode}.beton"
        options = {"indices": index, "resolution": side, "crop_ratio": 1.0}
        first, second = (epoch(evaluate(path, name, **options))[0] for name in PAIR)
        assert (first - second).abs().max() <= largest
        assert (first - second).abs().mean() <= mean


def test_an_image_folder_gives_what_its_beton_file_gives(
    photos: Path, photo_betons: Path, evaluate: Make
) -> None:
    options = {"resolution": 64, "crop_ratio": 0.875}
    folder, beton = (
        epoch(evaluate(path, "torch", **options)) for path in (photos, photo_betons / "raw.beton")
    )
    assert torch.equal(folder[0], beton[0])
    assert torch.equal(folder[1], beton[1])


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in PAIR, reason="FFCV is not installed")
def test_real_imagenet_looks_alike_in_both_loaders(real_data: Path, tmp_path: Path, evaluate: Make) -> None:
    from anynet_dist.data.beton.build import build_beton
    from anynet_dist.data.beton.writer import WriteOptions
    from anynet_dist.data.sources import load_source

    source = load_source("imagenet", real_data / "imagenet")
    options = WriteOptions(max_resolution=500)
    build_beton(source.val, tmp_path / "val.beton", classes=source.classes, options=options)
    choices: dict[str, Any] = {"resolution": 224, "crop_ratio": 224 / 256, "batch_size": 40}
    choices["indices"] = np.arange(0, 1000, 5)
    torchs, ffcv = (epoch(evaluate(tmp_path / "val.beton", name, **choices)) for name in PAIR)
    mean, largest = difference(ffcv[0], torchs[0])
    assert mean < 2
    assert largest < 10
    area = epoch(evaluate(tmp_path / "val.beton", "torch", eval_resize="area", **choices))[0]
    mean_of_areas, largest_of_areas = difference(ffcv[0], area)
    assert mean_of_areas < 0.1
    assert largest_of_areas < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_leaving_early_and_starting_again(name: str, digits: Path, train: Make) -> None:
    loader = train(digits / "train.beton", name)
    first = next(iter(loader))[0]
    for _ in range(5):
        for images, _ in loader:
            assert torch.equal(images, first)
            break
    assert len(epoch(loader)[0]) == 1400


def test_an_image_folder_of_one_size_can_be_used_whole(tmp_path: Path, train: Make) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    assert open_dataset(tmp_path).constant_shape == (16, 16)
    images, _ = epoch(train(tmp_path, "torch", resolution=16, global_batch=8))
    assert sorted(images[:, 0, 0, 0].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_classes_are_numbered_as_in_training(photos: Path, photo_betons: Path) -> None:
    info = open_dataset(photos, classes=["bridge", "china", "flower"])
    assert info.labels.tolist() == [1] * 12 + [2] * 12
    with pytest.raises(UserError, match="class 'flower' does not occur"):
        open_dataset(photos, classes=["china"])
    with pytest.raises(UserError, match="not those of the training split"):
        open_dataset(photo_betons / "raw.beton", classes=["flower", "china"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": Augmentation()}, "differ in size, so they need random_resized_crop"),
        ({"augment": IMAGENET_STYLE, "global_batch": 25}, "24 samples, fewer than one global batch of 25"),
        ({"augment": Augmentation(random_resized_crop=True, cutout=99)}, "cutout of 99 pixels"),
        ({"loader": "fcv"}, "did you mean 'ffcv'"),
        ({"loader": "device"}, "images differ in size, but loader 'device'"),
        ({"indices": np.array([0, 24])}, "indices must lie between 0 and 23"),
    ],
)
def test_what_cannot_work_is_refused(photo_betons: Path, options: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {
        "global_batch": 8,
        "seed": 0,
        "resolution": 32,
        "augment": IMAGENET_STYLE,
    }
    with pytest.raises(UserError, match=message):
        make_train(photo_betons / "raw.beton", **{**defaults, **options})


def test_ffcv_wants_a_beton_file(photos: Path) -> None:
    with pytest.raises(UserError, match="make one with 'anynet data build'"):
        make_eval(photos, loader="ffcv", batch_size=4, resolution=32, crop_ratio=1.0)


def test_images_of_different_sizes_need_a_crop_for_evaluation(photo_betons: Path) -> None:
    with pytest.raises(UserError, match="they need a centre-crop ratio"):
        make_eval(photo_betons / "raw.beton", batch_size=4, resolution=32)


def test_the_choice_of_a_loader_is_logged(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_eval(photos, batch_size=4, resolution=32, crop_ratio=1.0, workers=1)
    assert any("loader: torch" in message and "image folder" in message for message in caplog.messages)
