"""Hooks and tasks from plug-ins."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from anynet_dist import Trainer, register_hook
from anynet_dist.config import load_config
from anynet_dist.system.errors import UserError
from tests.conftest import Launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

PLUGIN = """
from pathlib import Path
from anynet_dist import register_hook

@register_hook(every=2)
def note(trainer):
    with Path(__file__).with_suffix(".log").open("a") as log:
        log.write(f"{trainer.accelerator.process_index}:{trainer.progress.step} ")
"""


def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "note.py"
    file.write_text(PLUGIN)
    return file


def test_a_hook_of_a_plug_in_is_called_every_n_steps_of_the_runs_that_name_it(
    blobs_config: Path, tmp_path: Path
) -> None:
    file = plugin(tmp_path)
    Trainer(load_config(blobs_config, ["--plugins", str(file)]).config).fit()
    assert file.with_suffix(".log").read_text().split() == ["0:2", "0:4", "0:6"]
    Trainer(load_config(blobs_config, ["--run.overwrite", "true"]).config).fit()
    assert file.with_suffix(".log").read_text().split() == ["0:2", "0:4", "0:6"], "of another run"


class Cycle:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_between_steps_alone_while_a_run_trains(blobs_config: Path) -> None:
    cycles: list[weakref.ref[Cycle]] = []
    alive: list[int] = []

    @register_hook(every=1)
    def make(trainer: Any) -> None:
        assert not gc.isenabled()
        cycles.append(weakref.ref(Cycle()))
        alive.append(sum(cycle() is not None for cycle in cycles))

    config = load_config(blobs_config, ["--speed.collect_garbage_every", "2"]).config
    Trainer(config, hooks=[make]).fit()
    assert alive == [1, 2, 1, 2, 1, 2], "after every second step, once the other hooks were called"
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_every_rank_calls_it(blobs_config: Path, tmp_path: Path, launch: Launch) -> None:
    file = plugin(tmp_path)
    launch("train", blobs_config, "--plugins", file, processes=2)
    calls = file.with_suffix(".log").read_text().split()
    assert sorted(calls) == ["0:2", "0:4", "0:6", "1:2", "1:4", "1:6"]


def test_hooks_are_given_in_python_and_see_the_step_before_it_is_saved(
    blobs_config: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, list[str]]] = []

    @register_hook(every=3)
    def look(trainer: Any) -> None:
        trainer.saver.finish()  # or the one before may be on its way
        saved = sorted(path.name for path in trainer.folder.checkpoints.glob("step_*"))
        seen.append((trainer.progress.step, saved))

    options = ["--checkpoint.every", "1 step", "--checkpoint.keep_last", "1", "--checkpoint.keep_best", "1"]
    config = load_config(blobs_config, [*options, "--data.val_fraction", "0"]).config
    Trainer(config, hooks=[look]).fit()
    assert seen[0] == (3, ["step_00000002"])
    assert [step for step, _ in seen] == [3, 6, 9, 12][: len(seen)]


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_an_interval_that_is_no_positive_integer_is_refused(every: Any) -> None:
    with pytest.raises(UserError, match=r"every must be an integer of at least 1, or .evaluation. \(got "):
        register_hook(every=every)


def test_an_unknown_task_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  task: clasification\n")
    with pytest.raises(UserError, match=r"run\.yaml:2: train\.task: .*did you mean 'classification'\?"):
        load_config(file)


def test_a_task_must_be_a_subclass_of_task(blobs_config: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from anynet_dist import register_task\n@register_task('wrong')\nclass Wrong:\n    pass\n"
    )
    options = ["--plugins", str(file), "--train.task", "wrong"]
    with pytest.raises(UserError, match=r"wrong\.py:2: task 'wrong' must be a subclass of .*Task"):
        Trainer(load_config(blobs_config, options).config)
