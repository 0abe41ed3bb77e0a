"""The commands that a page of documentation shows, run as its reader would type them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.conftest import PATIENCE, ROOT
from tests.warm_start import WARM


def shown_commands(page: str) -> list[str]:
    """The lines of all blocks of shell commands of a page, such as docs/explore.md."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def run_shown(words: list[str], folder: Path) -> str:
    """What a command writes that is run in a folder; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    if words[0] == "anynet":
        done = WARM.run(words[1:], timeout=PATIENCE, environment=environment, folder=folder)
    else:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
