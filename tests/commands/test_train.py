"""`anynet train` says where an option stands that only plug-ins and libraries can judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from anynet_dist.cli import main

CONFIG = """\
base: {base}
plugins: [mine.py]
data: {{train: nowhere}}
optim:
  name: torch:RAdam
  options:
    epsilon: 1.0e-3
train:
  loss: focl
"""


@pytest.mark.usefixtures("registries")
def test_names_and_options_are_checked_before_data_is_touched(
    blobs_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from anynet_dist import register_loss\n"
        "register_loss('focal')(lambda: nn.CrossEntropyLoss())\n"
    )
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(base=blobs_config.name))
    assert main(["train", str(config), "--schedule.options.power", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("anynet: error: ").partition(" (allowed")[0] for line in lines] == [
        f"{config}:7: optim.options.epsilon: torch:RAdam has no such option; did you mean 'eps'?",
        f"{config}:9: train.loss: unknown loss 'focl'; did you mean 'focal'?",
        "--schedule.options.power: cosine has no such option",
    ]
    assert not (tmp_path / "run").exists()
