"""The commands of docs/explore.md, in their order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.sweep.space_file import read_space
from tests.conftest import PATIENCE

TEXT = (Path(__file__).parents[1] / "docs" / "explore.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.M | re.S) for line in block.splitlines()
]


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(root: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(root / "configs")
    (tmp_path / "table.csv").write_text("id,error,flops\na,10.5,1000\nb,9.5,2000\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in COMMANDS:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "8 sampled networks" in (tmp_path / "best.yaml").read_text()


def test_the_space_shown_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.M | re.S)
    file = tmp_path / "mine.yaml"
    file.write_text(example)
    space = read_space(file)
    assert space.degrees_of_freedom == 4 + 4 + 1 + 1 + 1
    assert space.window["params"].upper(1e9) == 3e6 + 5.5e6
