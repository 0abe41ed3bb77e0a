"""The tutorial's commands, config and Python work one after the other, as a new user would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.shown_commands import run_shown

TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", TEXT, flags=re.M | re.S)


@pytest.mark.slow
def test_the_tutorial_ends_with_a_network_that_names_images(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "flowers").mkdir()
    (config,), (in_python,) = blocks("yaml"), blocks("python")
    (tmp_path / "flowers" / "first.yaml").write_text(config)
    commands = ["set -e", *blocks("sh"), f"python - <<'END'\n{in_python}END"]
    output = run_shown(["bash", "-c", "\n".join(commands)], tmp_path)
    tested = re.findall(r"^test: top-1 ([\d.]+)%", output, flags=re.M)
    assert float(tested[-1]) >= 75, "guessing gives 50"
    assert output.splitlines()[-1] in ("building", "flower")
    assert (tmp_path / "flowers" / "runs" / "first" / "export" / "model.onnx").is_file()
