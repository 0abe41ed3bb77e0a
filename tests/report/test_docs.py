"""The commands of docs/reports.md, in their order."""

import re
import shlex
from pathlib import Path

import pytest

from tests.shown_commands import run_shown, shown_commands


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "reports.md").read_text()
    (tmp_path / "configs").symlink_to(root / "configs")
    for command in shown_commands("docs/reports.md"):
        run_shown(shlex.split(command), tmp_path)
    for name in ("digits.png", "augmented.png", "compare.html", "all.html", "tables/runs.csv"):
        assert (tmp_path / name).exists(), name
    listed = re.findall(r"^\| `(\S+)` \|", text, flags=re.M)
    assert listed == [name for name in listed if (tmp_path / "runs" / "small" / name).exists()]
    assert len(listed) == 6
