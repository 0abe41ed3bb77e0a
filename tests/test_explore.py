"""The commands of docs/explore.md, in their order."""

import re
import shlex
from pathlib import Path

import pytest

from anynet_dist.sweep.space_file import read_space
from tests.shown_commands import run_shown, shown_commands

TEXT = (Path(__file__).parents[1] / "docs" / "explore.md").read_text()
COMMANDS = shown_commands("docs/explore.md")


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(root: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(root / "configs")
    (tmp_path / "table.csv").write_text("id,error,flops\na,10.5,1000\nb,9.5,2000\n")
    for command in COMMANDS:
        run_shown(shlex.split(command), tmp_path)
    assert "8 sampled networks" in (tmp_path / "best.yaml").read_text()


def test_the_space_shown_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.M | re.S)
    file = tmp_path / "mine.yaml"
    file.write_text(example)
    space = read_space(file)
    assert space.degrees_of_freedom == 4 + 4 + 1 + 1 + 1
    assert space.window["params"].upper(1e9) == 3e6 + 5.5e6
