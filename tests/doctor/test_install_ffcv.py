"""`anynet doctor --fix ffcv`: what it needs, and what it says where that is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.doctor.install_ffcv import NEEDED, _build_environment
from tests.conftest import ROOT


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("FFCV is for Linux")
    done = subprocess.run(
        [sys.executable, "-m", "anynet_dist", "doctor", "--fix", "ffcv"],
        env={**os.environ, "PATH": str(tmp_path), "CXX": "c++-of-mine"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("anynet: error: FFCV needs pkg-config and c++-of-mine to compile: 'apt-get")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_the_compiler_is_led_to_the_two_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKG_CONFIG_PATH", "/mine")
    monkeypatch.setenv("CONDA_PREFIX", "/conda")
    environment = _build_environment()
    assert environment["PKG_CONFIG_PATH"].endswith(":/mine")
    assert environment["CPATH"].startswith("/conda/include:/conda/include/opencv4")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "opencv4"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert f"-I{ROOT / 'launch' / 'ffcv'}/include" in flags
    assert {"-lopencv_imgproc", "-lopencv_core"} <= set(flags)


def test_all_that_ffcv_asks_for_is_installed_but_for_what_stands_in() -> None:
    """What pyproject.toml states as ffcv's own metadata, the headless OpenCV in place of the other."""
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["dependency-metadata"]
    stated = next(entry["requires-dist"] for entry in tool if entry["name"] == "ffcv")
    ours = {need.partition(">")[0] for need in NEEDED} | {"psutil"}  # that one anynet_dist needs itself
    assert set(stated) - {"opencv-python"} <= ours
    assert "opencv-python-headless" in ours
