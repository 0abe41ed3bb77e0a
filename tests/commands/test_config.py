from __future__ import annotations

from pathlib import Path

import pytest

from anynet_dist.cli import main


def test_show_prints_the_merged_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("optim: {lr: 0.2, momentum: 0.8}\n")
    Path("c.yaml").write_text("base: base.yaml\noptim: {lr: 0.3}\n")
    assert main(["config", "show", "c.yaml", "--optim.eps", "1", "--model.strides", "1", "2"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in [
        "lr: 0.3 # c.yaml:2",
        "momentum: 0.8 # base.yaml:1",
        "eps: 1.0 # command line",
        "strides: [1, 2] # command line",
        "epochs: 10 # default",
    ]:
        assert line in shown


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["config", "show", "--help"])
    assert exited.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--optim.lr NUMBER Peak learning rate at train.global_batch. Default: 0.1 for sgd," in shown
    assert "--optim.weight_decay NUMBER Weight decay. (default: 5e-05)" in shown
    assert "--data.augment.flip [true|false] Mirror half" in shown
    assert "--train.precision {auto,fp32,bf16,fp16}" in shown
    assert "--data.mean NUMBER NUMBER NUMBER" in shown
    assert "--model.strides INT ..." in shown


def test_show_hides_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("data: {train: 'https://u:pw@h/x'}\n")
    options = ["--tracking.tags", "https://h?token=pw", "--tracking.wandb", "offline"]
    assert main(["config", "show", str(tmp_path / "c.yaml"), *options]) == 0
    assert main(["config", "show", str(tmp_path / "c.yaml"), "--optim.lr=ftp://u:pw@h"]) == 2
    shown = capsys.readouterr()
    assert "train: https://***@h/x" in shown.out
    assert "(got 'ftp://***@h')" in shown.err
    assert "pw" not in shown.out + shown.err
