"""slurm/common.sh as a task on a node runs it, with stand-ins for what this machine has not got."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNTIME = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" >"$RECORD"
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
ENTER = 'set -euo pipefail; source "$ANYNET_SLURM/common.sh"; enter "$@"'


class Node:
    """A folder with a site file, and programs that come first on PATH."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.failure, self.record = folder / "7.failure", folder / "record"
        (folder / "bin").mkdir()

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def enter(self, settings: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run words as srun would let a task run them."""
        (self.folder / "site.sh").write_text(settings)
        environment = {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "ANYNET_SLURM": str(self.root / "slurm"),
            "ANYNET_SITE": str(self.folder / "site.sh"),
            "ANYNET_FAILURE_FILE": str(self.failure),
            "PYTHONPATH": str(self.root),
            "RECORD": str(self.record),
            "SLURMD_NODENAME": "n1",
            "SLURM_PROCID": "0",
            "HOME": os.environ.get("HOME", "/"),
        }
        return subprocess.run(
            ["bash", "-c", ENTER, "anynet", *words],
            cwd=self.folder, env={**environment, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, root: Path) -> Node:
    return Node(tmp_path, root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("ANYNET_VENV=/no/venv", "ANYNET_VENV: '/no/venv' is no virtual environment that works on n1"),
        ("ANYNET_MODULES='cuda/99'", "ANYNET_MODULES: there is no 'module' command on n1, to load 'cuda/99'"),
        ("module() { false; }\nANYNET_MODULES=cuda/99", "ANYNET_MODULES: 'cuda/99' cannot be loaded on n1"),
        (
            "ANYNET_CONDA_ENV=mine",
            "ANYNET_CONDA_ENV: there is no conda on n1; its module belongs in ANYNET_M",
        ),
        (
            "conda() { [ $1 = shell.bash ]; }\nANYNET_CONDA_ENV=mine",
            "ANYNET_CONDA_ENV: 'mine' cannot be activated on n1",
        ),
        (
            "ANYNET_CONTAINER=a.sif\nANYNET_CONTAINER_RUNTIME=apptainer",
            "ANYNET_CONTAINER_RUNTIME: there is no apptainer on n1; its module belongs in ANYNET_MODULES",
        ),
    ],
)
def test_what_is_missing_on_a_node_is_named(node: Node, settings: str, message: str) -> None:
    done = node.enter(settings + "\n", "echo", "not reached")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    first, text = node.failure.read_text().splitlines()
    assert first == "task 0 on n1 ended with exit code 2"
    assert text.startswith(message)


def test_a_python_without_the_package_is_named(node: Node) -> None:
    node.program("python", f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    done = node.enter("", "echo", "not reached")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{node.folder}/bin/python on n1 lacks torch anynet_dist: see ANYNET_VENV" in done.stderr


def test_modules_and_a_venv_that_are_there(node: Node) -> None:
    venv = Path(sys.prefix).resolve()
    settings = f"module() {{ echo \"$@\"; }}\nANYNET_MODULES='gcc cuda'\nANYNET_VENV={venv}\n"
    done = node.enter(settings, "python", "-c", "import os, sys; print(os.path.realpath(sys.prefix))")
    assert (done.stdout, done.returncode) == (f"load gcc\nload cuda\n{venv}\n", 0), done.stderr
    assert not node.failure.exists()


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
@pytest.mark.parametrize("gpus", ["0", "2"])
def test_a_container_is_entered(node: Node, runtime: str, gpus: str) -> None:
    node.program(runtime, RUNTIME)
    (node.folder / "a.sif").touch()
    settings = (
        f"ANYNET_CONTAINER=$PWD/a.sif\nANYNET_CONTAINER_RUNTIME={runtime}\n"
        "ANYNET_CONTAINER_MOUNTS=/data:/data:ro\nANYNET_CONTAINER_OPTIONS=(--cleanenv '--env=A=b c')\n"
        "ANYNET_STAGE_DIR=$PWD/disk\n"
    )
    done = node.enter(
        settings, "printf", "<%s>", "two words", "$HOME", SLURM_GPUS_ON_NODE=gpus, ANYNET_RUN="run"
    )
    assert (done.stdout, done.returncode) == ("<two words><$HOME>", 0), done.stderr
    words = node.record.read_text().splitlines()
    here = node.folder
    mounts = [
        "/data:/data:ro",
        *(f"{path}:{path}" for path in (here, node.root / "slurm", here / "run", here / "disk")),
    ]
    assert words[:6] == [runtime, "exec", "--pwd", str(here), "--bind", ",".join(mounts)]
    with_gpus = ["--nv"] if gpus == "2" and not Path("/dev/kfd").exists() else []
    assert words[6 : words.index("bash")] == [*with_gpus, "--cleanenv", "--env=A=b c", f"{here}/a.sif"]


def test_an_image_that_is_missing_is_named(node: Node) -> None:
    node.program("apptainer", RUNTIME)
    settings = "ANYNET_CONTAINER=/no/a.sif\nANYNET_CONTAINER_RUNTIME=apptainer\n"
    done = node.enter(settings, "echo", "not reached")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ANYNET_CONTAINER: there is no image '/no/a.sif' on n1" in node.failure.read_text()
    assert node.enter(settings.replace("/no/a.sif", "docker://a/b"), "echo", "reached").stdout == "reached\n"


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, "0"),
        ({"SLURM_GPUS_ON_NODE": "3", "CUDA_VISIBLE_DEVICES": "0"}, "3"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "0"),
        ({"SLURM_JOB_GPUS": "4,5,6", "CUDA_VISIBLE_DEVICES": "0"}, "3"),
    ],
)
def test_gpus_are_counted_also_where_slurm_does_not(
    node: Node, variables: dict[str, str], count: str
) -> None:
    assert node.enter("", "gpus_on_node", **variables).stdout == f"{count}\n"
    processes = node.enter("", "processes_on_node", **variables).stdout
    assert processes == ("1\n" if count == "0" else f"{count}\n")


def test_the_recipe_of_the_image_copies_what_is_there(root: Path) -> None:
    recipe = (root / "slurm" / "anynet.def").read_text()
    section = recipe.partition("%files\n")[2].partition("\n\n")[0]
    copied = dict(line.split() for line in section.splitlines())
    assert copied
    assert all(
        (root / source).exists() and target == f"/opt/anynet_dist/{source}"
        for source, target in copied.items()
    )
    needed = re.findall(
        r"constraints\.txt|pyproject\.toml|launch/\S+\.pc", (root / "launch" / "setup.sh").read_text()
    )
    assert {name.partition("/")[0] for name in needed} <= set(copied)


def test_a_users_settings_and_builds_are_not_committed(root: Path) -> None:
    ignored = (root / ".gitignore").read_text().splitlines()
    assert {"slurm/site.sh", "build/"} <= set(ignored)
