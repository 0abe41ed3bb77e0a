"""A short run that is killed, or whose file system fails, at operations all along its way, and goes on.

`make test` takes a sample of the operations; `pytest tests/faults --every-operation -s` every one, for
docs/reliability.md.
"""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faulty_runs import FaultyRuns, Mode, faulty
from tests.training.conftest import log_without_times

pytestmark = [pytest.mark.slow, pytest.mark.timeout(24 * 3600)]

SAMPLE = {Mode.KILL_BEFORE: 5, Mode.KILL_AFTER: 5, Mode.EIO_ONCE: 6, Mode.NO_SPACE: 3, Mode.READ_ONLY: 3}
"""Operations of each kind of fault in `make test`."""
TIMED = {"manifest.json", "progress.json", "environment.json", "console.log", "status.json", "metrics.jsonl"}
"""Files that hold times, or checksums of such; and the folder's own name is in the config."""
PLACED = {"config.yaml", "run_config.yaml"}


@pytest.fixture
def runs(blobs_config: Path, tmp_path: Path) -> Iterator[FaultyRuns]:
    """Four steps, two checkpoints of which the older is removed, a moving average, validation, a test."""
    options = ("--train.max_steps", "4", "--checkpoint.keep_last", "1", "--ema.decay", "0.9")
    with faulty(tmp_path) as warm:
        yield FaultyRuns(warm, ["train", blobs_config, *options, "--resume", "auto"])


def content(run: Path) -> dict[str, bytes | str]:
    """What must be equal to the byte, by name: links by where they lead, files with times by nothing."""
    found: dict[str, bytes | str] = {}
    for path in run.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(run))] = str(path.readlink())
        elif path.is_file():
            varies = path.name in TIMED | PLACED
            found[str(path.relative_to(run))] = b"" if varies else path.read_bytes()
    return found


def differences(run: Path, whole: Path) -> list[str]:
    """In what a run is not what the undisturbed one is."""
    one, other = content(run), content(whole)
    found = [f"{name} is only in one" for name in one.keys() ^ other.keys()]
    found += [f"{name} differs" for name in one.keys() & other.keys() if one[name] != other[name]]
    if log_without_times(run) != log_without_times(whole):
        found.append("the records differ")
    state = json.loads((run / "status.json").read_text())["state"]
    return found + [f"the status is {state}"] * (state != "finished")


def chosen(mode: Mode, count: int, every: bool) -> list[int]:
    """Numbers of operations: every one, or a sample that is the same each time."""
    numbers = range(1, count + 1)
    return list(numbers) if every else sorted(random.Random(mode).sample(numbers, SAMPLE[mode]))


def report(mode: Mode, tried: int, problems: list[str], more: str = "") -> None:
    """What docs/reliability.md shows (`pytest -s`); fails where there were problems."""
    print(f"\n{mode.name}: {tried} operations tried, {len(problems)} problems{more}")
    assert not problems, "\n\n".join(problems)


@pytest.mark.parametrize("mode", [Mode.KILL_BEFORE, Mode.KILL_AFTER])
def test_a_run_killed_at_an_operation_goes_on_as_if_it_had_not_been(
    runs: FaultyRuns, tmp_path: Path, mode: Mode, every_operation: bool
) -> None:
    operations = runs.operations(tmp_path / "whole")
    numbers, problems = chosen(mode, len(operations), every_operation), []
    for number in numbers:
        folder = tmp_path / f"killed_{number}"
        killed, again = runs.run(folder, mode, number), runs.run(folder)
        wrong = [f"ended with {killed.returncode}"] * (killed.returncode != -9)
        wrong += [f"then with {again.returncode}: {again.stderr}"] * bool(again.returncode)
        wrong += differences(folder / "run", tmp_path / "whole" / "run")
        if wrong:
            problems.append("\n  ".join([f"{number} {operations[number - 1]}", *wrong]))
        shutil.rmtree(folder)
    report(mode, len(numbers), problems)


@pytest.mark.parametrize("mode", [Mode.EIO_ONCE, Mode.NO_SPACE, Mode.READ_ONLY])
def test_a_file_system_that_fails_is_reported_in_a_sentence_and_loses_nothing(
    runs: FaultyRuns, tmp_path: Path, mode: Mode, every_operation: bool
) -> None:
    operations = runs.operations(tmp_path / "whole")
    numbers, problems, sentences = chosen(mode, len(operations), every_operation), [], 0
    for number in numbers:
        folder = tmp_path / f"failed_{number}"
        failed, again = runs.run(folder, mode, number), runs.run(folder)
        errors = [line for line in failed.stderr.splitlines() if line.startswith("anynet: error: ")]
        wrong = ["a traceback"] * ("Traceback" in failed.stdout + failed.stderr)
        wrong += [f"ended with {failed.returncode}"] * (failed.returncode not in (0, 1, 2))
        if failed.returncode:
            wrong += ["not one sentence that names a file"] * (
                len(errors) != 1 or str(folder) not in errors[0]
            )
        wrong += [f"then ended with {again.returncode}: {again.stderr}"] * bool(again.returncode)
        wrong += differences(folder / "run", tmp_path / "whole" / "run")
        if wrong:
            problems.append("\n  ".join([f"{number} {operations[number - 1]}", *wrong, failed.stderr]))
        sentences += bool(failed.returncode)
        shutil.rmtree(folder)
    report(mode, len(numbers), problems, f"; {sentences} ended with a sentence, the others went on")
