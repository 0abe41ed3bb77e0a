"""The torch loader where /dev/shm is small or full, as in a container; in a mount namespace of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

pytestmark = pytest.mark.slow

READS = """
import hashlib, logging, sys
from pathlib import Path
import torch
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.system.errors import UserError

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    loader = train_loader(
        sys.argv[1], 32, resolution=16, normalisation=Normalisation((0, 0, 0), (1, 1, 1)),
        placement=Placement(workers=2), loader="torch",
    )
    loader.set_resolution(128)
    digest = hashlib.sha256()
    try:
        for epoch in range(2):
            loader.set_epoch(epoch)
            for images, labels in loader:
                digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    except UserError as error:
        sys.exit(str(error))
    finally:
        loader.close()
    print(digest.hexdigest())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program that reads two epochs in batches of 1.5 MiB and prints what it read."""
    path = tmp_path / "reads.py"
    path.write_text(READS)
    return path


def read(script: Path, images: Path, mount: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program with what `mount`, a shell command, makes of /dev/shm for it alone."""
    command = [sys.executable, str(script), str(images)]
    if mount:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small /dev/shm")
        command = ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_batches_that_do_not_fit_come_through_pipes_with_one_warning(script: Path, blobs: Path) -> None:
    plenty = read(script, blobs / "train")
    little = read(script, blobs / "train", "mount -t tmpfs -o size=1m tmpfs /dev/shm")
    assert (plenty.returncode, little.returncode) == (0, 0), plenty.stderr + little.stderr
    assert little.stdout == plenty.stdout
    assert "/dev/shm" not in plenty.stderr
    (told,) = [line for line in little.stderr.splitlines() if "/dev/shm" in line]
    assert "/dev/shm (1.0 MiB, " in told
    assert "batches of 1.5 MiB" in told
    assert "--shm-size" in told


def test_where_not_even_queues_can_be_made_a_sentence_says_so(script: Path, blobs: Path) -> None:
    full = "mount -t tmpfs -o size=64k tmpfs /dev/shm; dd if=/dev/zero of=/dev/shm/full bs=4k count=16"
    done = read(script, blobs / "train", full)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if "/dev/shm (" in line]
    assert "/dev/shm (0.1 MiB, 0.0 MiB free) has no room for the loader's worker processes" in told
    assert "Traceback" not in done.stderr
