"""What FFCV does not promise by itself: no hang, no leak, no wrong pixels."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ffcv", reason="FFCV is not installed")

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import BetonError, read_table
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.dataset import Dataset
from anynet_dist.data.loaders.base import LoaderRequest, Placement
from anynet_dist.data.loaders.ffcv import FFCVLoader
from anynet_dist.data.loaders.thread import BatchThread
from anynet_dist.data.order import EvalPlan, Plan, TrainPlan, epoch_order
from anynet_dist.data.samples import BetonSamples, FolderSamples
from anynet_dist.data.transforms.apply import place
from anynet_dist.data.transforms.augmentation import Augmentation, TranslatePadding
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.data.transforms.params import SampleParams, SampleTransform
from anynet_dist.system.errors import RunError, UserError


def loader(
    path: Path, plan: Plan | None = None, transform: SampleTransform | None = None, **options: Any
) -> FFCVLoader:
    data = Dataset(path=path, samples=BetonSamples(read_table(path)))
    request = LoaderRequest(
        data=data,
        plan=plan or TrainPlan(num_samples=len(data), batch=BatchPlan(global_batch=50)),
        transform=transform or SampleTransform(resolution=32, augment=Augmentation(), seed=0),
        normalisation=Normalisation((0, 0, 0), (1 / 255,) * 3),
        placement=Placement(workers=options.pop("workers", None)),
    )
    return FFCVLoader(request, **options)


def test_leaving_early_leaves_no_threads(digits: Path) -> None:
    batches = loader(digits / "train.beton")
    list(batches)
    before = threading.active_count()
    for _ in range(30):
        for _ in batches:
            break
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        fail_amid(batches)
    assert threading.active_count() == before


def fail_amid(batches: FFCVLoader) -> None:
    for _ in batches:
        _ = 1 / 0


def test_close_ends_the_thread_of_an_epoch_that_is_held(digits: Path) -> None:
    batches = loader(digits / "train.beton")
    before = threading.active_count()
    held = iter(batches)
    next(held)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_a_batch_larger_than_the_data_takes_no_more_memory_than_all_of_it(digits: Path) -> None:
    transform = SampleTransform(resolution=32)
    batches = loader(digits / "val.beton", EvalPlan(num_samples=360, batch_size=10**15), transform)
    assert [len(labels) for _, labels in batches] == [360]


@pytest.fixture
def damaged(photos: Path, tmp_path: Path) -> Path:
    """A .beton file of JPEGs whose sample 5 is damaged inside."""
    path = tmp_path / "damaged.beton"
    samples = FolderSamples(photos, ["china", "flower"])
    build_beton(samples, path, classes=("china", "flower"), options=WriteOptions(write_mode="jpg"), workers=1)
    table, data = read_table(path), bytearray(path.read_bytes())
    start, size = table.starts[5], table.sizes[5]
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return path


def test_a_damaged_jpeg_is_raised_with_file_and_sample(damaged: Path) -> None:
    transform = SampleTransform(resolution=32, crop_ratio=1.0)
    batches = loader(damaged, EvalPlan(num_samples=24, batch_size=3), transform)
    received: list[torch.Tensor] = []
    with pytest.raises(BetonError, match=r"damaged\.beton: sample 5: its JPEG is damaged"):
        received.extend(labels for _, labels in batches)
    assert len(received) == 1


def test_an_exception_in_the_thread_is_raised_here(digits: Path) -> None:
    class BrokenTransform(SampleTransform):
        def params(self, epoch: int, *args: Any) -> SampleParams:
            if epoch == 1:
                raise ArithmeticError("from the thread")
            return super().params(epoch, *args)

    batches = loader(digits / "train.beton", transform=BrokenTransform(resolution=32))
    assert len(list(batches)) == 28
    batches.set_epoch(1)
    with pytest.raises(ArithmeticError, match="from the thread") as raised:
        list(batches)
    assert re.search(
        r"while making batch 0 of epoch 1 \(samples .* of .*train\.beton", raised.value.__notes__[0]
    )
    batches.set_epoch(2)
    assert len(list(batches)) == 28


def test_a_stalled_thread_is_raised_not_waited_for(digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    class StalledTransform(SampleTransform):
        def params(self, *args: Any) -> SampleParams:
            release.wait(30)
            return super().params(*args)

    batches = loader(digits / "train.beton", transform=StalledTransform(resolution=32), stall_seconds=1)
    threading.Timer(2, release.set).start()  # so that the test itself need not wait for the thread's end
    first = ", ".join(map(str, epoch_order(1437, 0, 0)[:8]))
    with pytest.raises(RunError, match=rf"nothing in 1 s of batch 0 .*\(samples {first}, ... of .*n\.beton"):
        list(batches)
    assert re.search(r"waiting for batch 0 of epoch 0 \(samples .* for \d s", caplog.text)


def test_a_thread_that_dies_is_noticed_at_once(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = loader(digits / "train.beton", stall_seconds=10_000)  # longer than a test may take
    make, died = BatchThread._offer, threading.Event()

    def die(thread: BatchThread, item: Any) -> bool:
        if died.is_set():
            return False
        died.set()
        return make(thread, item)

    monkeypatch.setattr(BatchThread, "_offer", die)
    with pytest.raises(RunError, match=r"died without saying why, while making batch 1 of epoch 0"):
        list(batches)


WORKQUEUE = """
import sys
from pathlib import Path
import torch
from anynet_dist.data.loaders.factory import eval_loader
from anynet_dist.system.errors import RunError, UserError
try:
    eval_loader(sys.argv[1], loader="ffcv", batch_size=8)
except UserError as error:
    print(error)
"""


def test_threads_that_ffcv_cannot_use_are_refused(digits: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WORKQUEUE, str(digits / "train.beton")],
        env={**os.environ, "NUMBA_THREADING_LAYER": "workqueue"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "numba has only its 'workqueue' threads" in result.stdout


def test_memory_is_told(photo_betons: Path, caplog: pytest.LogCaptureFixture) -> None:
    """4 batches of 8 images of 64x64 pixels; two threads, each with the largest image and its JPEG."""
    caplog.set_level(logging.INFO)
    table = read_table(photo_betons / "jpg.beton")
    loader(
        table.path,
        EvalPlan(num_samples=24, batch_size=8),
        SampleTransform(resolution=512, crop_ratio=1.0),
        workers=2,
    )
    scratch = 2 * max(3 * table.heights * table.widths + table.sizes) / 2**20
    held = "FFCV holds 24 MiB of image buffers (4 batches of 8)"
    assert f"{held}; 2 threads decode with up to {scratch:.0f} MiB" in caplog.text


def test_torch_keeps_its_number_of_threads(digits: Path) -> None:
    threads = torch.get_num_threads()
    batches = loader(digits / "train.beton", workers=1)
    list(batches)
    assert torch.get_num_threads() == threads


IMPORT = """
import sys
import numba
import torch
torch.set_num_threads(3)
from anynet_dist.data.loaders import ffcv as ffcv_loader
kept = numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
print(torch.get_num_threads(), kept, "ffcv" in sys.modules)
"""


def test_importing_the_loader_changes_no_number_of_threads() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.split() == ["3", "True", "False"]


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_the_compiled_pass_does_what_place_does(digits: Path, padding: TranslatePadding) -> None:
    table = read_table(digits / "train.beton")
    everything = Augmentation(flip=True, translate=31, translate_padding=padding, cutout=9)
    transform = SampleTransform(resolution=32, augment=everything, fill=(10, 20, 30), seed=5)
    plan = EvalPlan(num_samples=len(table), batch_size=500)
    images = torch.cat([images for images, _ in loader(table.path, plan, transform)])
    rows = transform.params(0, np.arange(len(table)), table.heights, table.widths)
    samples, out = BetonSamples(table), np.empty((32, 32, 3), np.uint8)
    for index in range(len(table)):
        place(samples.image(index), rows[index], np.array((10, 20, 30), np.uint8), out)
        assert np.array_equal(images[index].permute(1, 2, 0).numpy(), out)


def test_impossible_settings_are_refused(digits: Path) -> None:
    with pytest.raises(UserError, match="batches_ahead"):
        loader(digits / "train.beton", batches_ahead=0)
    with pytest.raises(UserError, match="workers must be between 1 and"):
        loader(digits / "train.beton", workers=10_000)


ABANDON = """
import sys
from pathlib import Path
from anynet_dist.data.loaders.factory import *
import torch
loader = train_loader(sys.argv[1], 10, loader="ffcv")
held = iter(loader)
next(held)
raise SystemExit(7)
"""


@pytest.mark.slow
def test_a_process_that_ends_amid_an_epoch_ends_cleanly(digits: Path) -> None:
    command = [sys.executable, "-c", ABANDON, str(digits / "train.beton")]
    for _ in range(3):
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, "terminate" in result.stderr) == (7, False), result.stderr


PARTIAL_EPOCHS = """
import sys
import threading
import time
import numpy as np
import psutil
import torch
from anynet_dist.data.loaders.factory import train_loader

loader = train_loader(sys.argv[1], 50, loader="ffcv")

def leave(epoch):
    loader.set_epoch(epoch)
    loader.set_resolution(32 if epoch % 2 else 24)
    for number, (images, labels) in enumerate(loader):
        if number == epoch % 3:
            break

def used():
    process = psutil.Process()
    return threading.active_count(), process.num_threads(), process.memory_info().rss / 2**20

for epoch in range(50):
    leave(epoch)
before = used()
for epoch in range(200):
    leave(epoch)
end = time.monotonic() + 5
while used()[1] > before[1] and time.monotonic() < end:  # a thread that ended is counted for a moment
    time.sleep(0.01)
print(*before, *used())
"""


@pytest.mark.slow
def test_partial_epochs_leave_threads_and_memory_as_they_were(digits: Path) -> None:
    command = [sys.executable, "-c", PARTIAL_EPOCHS, str(digits / "train.beton")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    python, native, memory, python_after, native_after, memory_after = map(float, result.stdout.split())
    assert python_after == python == 1
    assert native_after <= native
    assert memory_after - memory < 8  # MiB; one leaked epoch's buffers alone are 2.3 MiB


BARE = """
import sys
import torch
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader
from ffcv.transforms import Squeeze, ToTensor

path, out = sys.argv[1:]
for os_cache in (True, False):
    pipelines = {
        "image": [CenterCropRGBImageDecoder((64, 64), 1.0), ToTensor()],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
    }
    bare = Loader(path, 8, num_workers=1, os_cache=os_cache, drop_last=False, pipelines=pipelines)
    batches = [(images.clone(), labels.clone()) for images, labels in bare]
    torch.save([torch.cat(parts) for parts in zip(*batches)], f"{out}/{os_cache}.pt")
"""


@pytest.mark.slow
def test_bare_ffcv_reads_the_files_too(photo_betons: Path, tmp_path: Path) -> None:
    """With and without the page cache: the second reads whole pages, so no image may lie across two."""
    path = photo_betons / "jpg.beton"
    transform = SampleTransform(resolution=64, crop_ratio=1.0)
    plan = EvalPlan(num_samples=24, batch_size=8)
    ours = torch.cat([images for images, _ in loader(path, plan, transform)])
    subprocess.run([sys.executable, "-c", BARE, str(path), str(tmp_path)], check=True, timeout=200)
    for os_cache in (True, False):
        images, labels = torch.load(tmp_path / f"{os_cache}.pt", weights_only=True)
        assert torch.equal(images.permute(0, 3, 1, 2), ours.byte())
        assert labels.tolist() == [0] * 12 + [1] * 12
