"""What a wheel and a source distribution carry, and what works where only the wheel is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("installed")]


def tracked(*folders: str) -> list[str]:
    """The files of these folders that somebody who has the repository gets."""
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a checkout")
    return listed


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without what it does not track."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    """Build with the backend that pyproject.toml names, without a network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(out.iterdir())


@pytest.fixture(scope="session")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "sdist", tmp_path_factory.mktemp("sdist") / "out")


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as pip does where there is no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build(next(folder.iterdir()), "wheel", folder / "out")


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def anynet(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anynet_dist", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_and_sdist_carry_every_file(sdist: Path, wheel: Path) -> None:
    shipped = tracked("configs", "launch", "slurm")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {f"anynet_dist/_shipped/{name}" for name in shipped} <= set(names)
        for name in shipped:
            assert archive.read(f"anynet_dist/_shipped/{name}") == (ROOT / name).read_bytes()
    assert "anynet_dist/py.typed" in names
    assert all(name.startswith(("anynet_dist/", "anynet_dist-0")) for name in names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    pages = {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE"}
    assert {*shipped, *pages, "anynet_dist/py.typed", "setup.py", "constraints.txt"} <= inside


def test_the_installed_package_starts_shows_and_submits(installed: Path, tmp_path: Path) -> None:
    begun = anynet(installed, tmp_path, "init", "mine")
    assert begun.returncode == 0, begun.stderr
    mine = tmp_path / "mine"
    (mine / "small.yaml").write_text("base: imagenet/resnet50.yaml\nrun: {name: small}\n")
    shown = anynet(installed, mine, "config", "show", "small.yaml")
    assert shown.returncode == 0, shown.stderr
    assert f"{installed}/anynet_dist/_shipped/configs/imagenet/" in shown.stdout
    for split in ("train", "val"):  # the user's images
        (mine / "images" / split / "any").mkdir(parents=True)
    words = ("submit", "own_images.yaml", "--site", "slurm/site.sh", "--dry-run")
    submitted = anynet(installed, mine, *words)
    assert submitted.returncode == 0, submitted.stderr
    assert f"ANYNET_SLURM={installed}/anynet_dist/_shipped/slurm" in submitted.stdout
    assert f"{installed}/anynet_dist/_shipped/slurm/train_" in submitted.stdout


def test_a_checkout_uses_its_own_files() -> None:
    from anynet_dist.system.shipped import shipped

    assert shipped("slurm") == ROOT / "slurm"
