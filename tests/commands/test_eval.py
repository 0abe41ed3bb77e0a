"""What `anynet eval` says of a run."""

import json
from pathlib import Path

import pytest

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_scores_are_those_of_the_run_also_class_by_class(
    blobs_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Trainer(load_config(blobs_config, ["--train.epochs", "1"]).config).fit()
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "test"
    for name in ("top1", "count", "not_finite", "balanced_top1", "classes_predicted", "class_top1"):
        assert found[name] == result[f"test/{name}"]
    assert main(["eval", str(tmp_path / "run"), "--per-class"]) == 0
    *_, first, second, third = capsys.readouterr().out.splitlines()
    for name, images, line, accuracy in zip(
        ("class0", "class1", "class2"), (13, 12, 12), (first, second, third), found["class_top1"], strict=True
    ):
        assert line.split() == [name, f"{accuracy:.2%}", "of", str(images)]
