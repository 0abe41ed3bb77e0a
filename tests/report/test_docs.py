"""The commands of docs/reports.md, in their order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "reports.md").read_text()
    (tmp_path / "configs").symlink_to(root / "configs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S):
        for command in block.splitlines():
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
    for name in ("digits.png", "augmented.png", "compare.html", "all.html", "tables/runs.csv"):
        assert (tmp_path / name).exists(), name
    listed = re.findall(r"^\| `(\S+)` \|", text, flags=re.M)
    assert listed == [name for name in listed if (tmp_path / "runs" / "small" / name).exists()]
    assert len(listed) == 6
