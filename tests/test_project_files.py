"""The files for people who work on the project say what is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_imports import LAYERS

MAKEFILE = (ROOT / "Makefile").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.M)
    assert found, f"no target {target}"
    return [line.lstrip("\t@") for line in found[1].splitlines()]


def commands_of(text: str) -> list[str]:
    """The lines of the blocks of shell in a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


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

    # Without git's own variables: run from a hook, they name the repository that the hook belongs to.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "SKIP": "mypy,shellcheck"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False
        )

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return run("git", "-c", "user.name=any", "-c", "user.email=any@example.org", *words)

    work = tmp_path / "work"
    work.mkdir()
    (work / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in (".pre-commit-config.yaml", "pyproject.toml", ".gitignore"):
        (work / name).write_bytes((ROOT / name).read_bytes())
    with (work / ".gitignore").open("a") as ignored:
        ignored.write(".venv\n")  # a link here
    git("init", "-q")
    installed = run(sys.executable, "-m", "pre_commit", "install")
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


def test_the_commands_of_the_contributing_guide_are_those_that_tests_run() -> None:
    """Targets of make exist (their recipes are tested beside what they call); the others are run below."""
    targets = [command.split()[1] for command in commands_of(CONTRIBUTING) if command.startswith("make ")]
    assert {"setup", "test-quick", "demo", "lint", "test"} <= set(targets)
    assert all(recipe(target) for target in targets)
    others = [command for command in commands_of(CONTRIBUTING) if not command.startswith("make ")]
    assert others == [".venv/bin/pre-commit install", ".venv/bin/pytest tests/config -k durations"]


@pytest.mark.slow
def test_the_tests_of_one_module_run_as_the_contributing_guide_says() -> None:
    (command,) = (line for line in commands_of(CONTRIBUTING) if line.startswith(".venv/bin/pytest"))
    words = [sys.executable, "-m", *shlex.split(command.removeprefix(".venv/bin/")), "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d* passed", done.stdout)


def test_the_contributing_guide_lists_every_package_from_top_to_bottom() -> None:
    listed = re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING, flags=re.M)
    there = {file.parent.name for file in (ROOT / "anynet_dist").glob("*/__init__.py")}
    assert listed == [package for layer in LAYERS for package in layer if package in there]


def test_the_contributing_guide_explains_every_marker() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, flags=re.M)
    registered = [
        marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    ]
    assert sorted(explained) == sorted(registered)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_that_are_there(page: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_workflow_calls_targets_of_make_on_pushes_and_pull_requests() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML reads the key `on` as true
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = [words[1] for step in steps if (words := step.get("run", "").split())]
    assert targets == ["setup", "test"]
    assert all(step["run"] == f"make {step['run'].split()[1]}" for step in steps if "run" in step)
    assert all(recipe(target) for target in targets)
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    supported = [word.rpartition(" ")[2] for word in PYPROJECT["project"]["classifiers"] if ":: 3." in word]
    assert pythons == [supported[0], supported[-1]]


def test_version_is_the_same_wherever_it_is_written() -> None:
    version = PYPROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == PYPROJECT["project"]["license"]
    releases = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert releases[:2] == ["Unreleased", version]


def test_no_module_repeats_the_version() -> None:
    version = PYPROJECT["project"]["version"]
    modules = (ROOT / "anynet_dist").rglob("*.py")
    assert [str(file) for file in modules if f'"{version}"' in file.read_text(encoding="utf-8")] == []


def test_citation_has_what_its_format_requires() -> None:
    """Citation File Format 1.2.0: these keys are required, and an author is a person or an entity."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    known = {
        "cff-version",
        "message",
        "type",
        "title",
        "abstract",
        "authors",
        "version",
        "license",
        "keywords",
    }
    assert citation.keys() <= known
    assert citation["authors"] == [{"name": "anynet_dist contributors"}]
    assert all(isinstance(citation[key], str) for key in ("message", "title", "version", "abstract"))
