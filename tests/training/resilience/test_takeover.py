"""A process that was suspended for so long that another machine took its run over leaves everything to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from anynet_dist import Trainer, register_hook
from anynet_dist.config import load_config
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.system.lock import LostLockError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

THEIRS = {"host": "another", "pid": 77, "slurm_job": None, "start": "0", "heartbeat": True, "token": "theirs"}


def everything_in(run: Path) -> dict[str, bytes | str]:
    """Contents by name, where a link leads for links; without what the process says to the end."""
    paths = [path for path in sorted(run.rglob("*")) if path.name != "console.log"]
    return {
        str(path.relative_to(run)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in paths
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("log_every", ["1", "100"])
def test_nothing_of_the_new_owner_is_touched(
    blobs_config: Path, tmp_path: Path, background: str, log_every: str
) -> None:
    run, seen = tmp_path / "run", {}

    @register_hook(every=5)
    def suspend(trainer: Any) -> None:
        trainer.saver.finish()
        (run / "run.lock").write_text(json.dumps(THEIRS))
        theirs = run / "checkpoints" / ".step_00000006.theirs.partial"  # of the step that is saved next here
        theirs.mkdir()
        (theirs / "model.safetensors").write_bytes(b"half")
        seen.update(everything_in(run))

    options = [
        *("--checkpoint.every", "3 steps", "--checkpoint.in_background", background),
        *("--train.log_every", log_every, "--ema.decay", "0.9"),
    ]
    with pytest.raises(LostLockError, match=r"run\.lock was taken over by process 77 on another"):
        Trainer(load_config(blobs_config, options).config, hooks=[suspend]).fit()
    assert everything_in(run) == seen
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    assert all(record["step"] <= 5 for record in read_records(run / "metrics.jsonl"))
