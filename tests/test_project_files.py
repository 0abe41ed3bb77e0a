"""The files for people who work on the project say what is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.M)
    assert found, f"no target {target}"
    return [line.lstrip("\t@") for line in found[1].splitlines()]


def hooks() -> list[dict[str, object]]:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"  # others are downloaded
    return list(local["hooks"])


def test_the_hooks_run_the_commands_of_make_lint() -> None:
    words = [shlex.split(str(hook["entry"])) for hook in hooks()]
    commands = [entry[2] if entry[:2] == ["bash", "-c"] else shlex.join(entry) for entry in words]
    assert commands == recipe("lint")
    assert {hook["language"] for hook in hooks()} == {"system"}


@pytest.mark.slow
def test_a_hook_stops_a_commit_with_an_unused_import(tmp_path: Path) -> None:
    """In a repository of its own with the shipped hooks, by pre-commit itself."""
    pytest.importorskip("pre_commit")

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        who = ("-c", "user.name=any", "-c", "user.email=any@example.org")
        environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache"), "SKIP": "mypy,shellcheck"}
        for name in [name for name in environment if name.startswith("GIT_")]:
            del environment[name]
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False
        )

    work = tmp_path / "work"
    work.mkdir()
    (work / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in (".pre-commit-config.yaml", "pyproject.toml", ".gitignore"):
        (work / name).write_bytes((ROOT / name).read_bytes())
    with (work / ".gitignore").open("a") as ignored:
        ignored.write(".venv\n")  # a link here
    git("init", "-q")
    installed = subprocess.run(
        [sys.executable, "-m", "pre_commit", "install"], cwd=work, capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stderr
    (work / "good.py").write_text('"""Says nothing."""\n')
    git("add", "--all")
    first = git("commit", "-q", "-m", "good")
    assert first.returncode == 0, first.stdout + first.stderr
    (work / "bad.py").write_text('"""Imports what it does not use."""\n\nimport os\n')
    git("add", "--all")
    refused = git("commit", "-q", "-m", "bad")
    assert refused.returncode == 1
    assert "F401" in refused.stdout + refused.stderr
    assert git("log", "--format=%s").stdout.split() == ["good"]
