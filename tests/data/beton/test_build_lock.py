from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.data.beton.build_lock import build_lock
from anynet_dist.system.errors import UserError

HOLD = """
import signal, sys
from pathlib import Path
from anynet_dist.data.beton.build_lock import build_lock
with build_lock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_build_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    process = holder(path)
    try:
        with (
            pytest.raises(UserError, match=f"process {process.pid} on {socket.gethostname()}"),
            build_lock(path),
        ):
            pass
        with build_lock(tmp_path / "val.beton"):  # another path
            pass
    finally:
        end(process)


def test_the_lock_of_a_killed_build_is_taken_over_and_its_remains_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "train.beton"
    process = holder(path)
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    (tmp_path / f".train.beton.{process.pid}.partial").write_bytes(b"half")
    with build_lock(path):
        assert json.loads((tmp_path / ".train.beton.lock").read_text())["pid"] == os.getpid()
    assert f"process {process.pid} on {socket.gethostname()}, which is gone: the stale lock" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_build_on_another_machine_is_respected(tmp_path: Path) -> None:
    with build_lock(tmp_path / "train.beton"):
        lock = tmp_path / ".train.beton.lock"
        elsewhere = json.loads(lock.read_text()) | {"host": "node7.example", "pid": 1}
    lock.write_text(json.dumps(elsewhere))
    os.utime(lock, (0, 0))
    with (
        pytest.raises(
            UserError, match=r"train\.beton: is being built by process 1 on node7\.example.*remove"
        ),
        build_lock(tmp_path / "train.beton"),
    ):
        pass
    assert lock.exists()


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    with pytest.raises(RuntimeError), build_lock(path):
        raise RuntimeError
    with build_lock(path):
        pass
