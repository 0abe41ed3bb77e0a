"""The torch loader's worker processes: none outlives the process that reads."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from tests.conftest import PATIENCE

READS = """
import signal, sys
from pathlib import Path
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader

if __name__ == "__main__":
    loader = train_loader(
        sys.argv[1], 8, resolution=16, placement=Placement(workers=2), loader="torch"
    )
    batches = iter(loader)
    next(batches)
    print("reads", flush=True)
    {what}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "stop"), [("signal.pause()", signal.SIGKILL), ("raise RuntimeError", None)])
def test_none_outlives_the_process_that_reads(
    blobs: Path, tmp_path: Path, what: str, stop: signal.Signals | None
) -> None:
    script = tmp_path / "reads.py"
    waits = "sys.stdin.readline();"  # until this test has looked
    script.write_text(READS.replace("{what}", waits + what))
    with subprocess.Popen(
        [sys.executable, script, blobs / "train"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        helpers = psutil.Process(process.pid).children(recursive=True)
        assert len(helpers) >= 2
        if stop is not None:
            process.send_signal(stop)
        process.communicate("looked\n", timeout=PATIENCE)
    _, alive = psutil.wait_procs(helpers, timeout=PATIENCE)
    assert alive == []


@pytest.mark.slow
def test_they_are_not_forked_beside_threads(blobs: Path) -> None:
    """Such a child may wait for ever for a lock that a thread held."""
    loader = train_loader(blobs / "train", 8, resolution=16, placement=Placement(workers=1), loader="torch")
    before = {child.pid for child in psutil.Process().children()}
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert sum(len(labels) for _, labels in loader) == 96
        new = [child for child in psutil.Process().children() if child.pid not in before]
        assert all("multiprocessing" in " ".join(child.cmdline()) for child in new), "the server at most"
    finally:
        done.set()
        thread.join()
        loader.close()
