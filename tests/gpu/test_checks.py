"""`launch/gpu_checks.sh`, as far as a machine without a GPU shows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.cli import Parser
from anynet_dist.commands import bench
from anynet_dist.models import preset_names
from tests.gpu import checks


def test_the_script_needs_a_gpu(root: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(root / "launch" / "gpu_checks.sh")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert "no GPU here" in done.stderr


def test_a_check_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(machine: checks.Machine) -> checks.Figures:
        return {"printed": machine.command(sys.executable, "-c", "raise SystemExit('no such thing')")}

    def working(machine: checks.Machine) -> checks.Figures:
        return {"printed": machine.command(sys.executable, "-c", "print('fine')"), "part": {"loss": 1.25}}

    monkeypatch.setattr(checks, "CHECKS", {"first": failing, "second": working})
    out = tmp_path / "results" / "device.json"
    results = checks.run_checks(["first", "second"], checks.Machine(tmp_path, None, None), out)
    assert results["first"]["failed"] == "exit code 1: no such thing"
    assert json.loads(out.read_text()) == results
    table = checks.table_of(results)
    assert list(table.columns[0].cells) == ["first", "second", "second part"]


def test_the_step_check_measures_with_options_that_the_command_takes() -> None:
    parser = Parser(prog="anynet bench")
    bench.configure(parser)
    for name, batch in checks.NETWORKS:
        words = ["model", name, "--batch", str(batch), *checks.STEP_OPTIONS, "--json", "out.json"]
        assert parser.parse_args(words).compile == ["off", "full", "reduce-overhead"]
        assert name in preset_names()
    assert parser.parse_args(["checkpoint", *checks.SAVING_OPTIONS, "--json", "out.json"]).ema
