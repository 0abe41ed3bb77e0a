"""A search: proposals keep the space's promises, and no trial is lost or trained twice, however it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.runs.metrics_log import read_records
from anynet_dist.sweep.distributions import Interval
from anynet_dist.sweep.members import base_options
from anynet_dist.sweep.population import read_population
from anynet_dist.sweep.progress import claim_file, collect, end_of, overview, read_attempts, state_of
from anynet_dist.sweep.proposals import Proposals
from anynet_dist.sweep.search import MEMBER, REFUSED, Plan, begin_search, require_optuna
from anynet_dist.sweep.search_worker import work_on_search
from anynet_dist.sweep.space import Bound, Space, model_of, with_window
from anynet_dist.sweep.space_file import read_space
from anynet_dist.sweep.suggest import suggested
from anynet_dist.system.errors import UserError
from anynet_dist.system.lock import is_held
from tests.conftest import PATIENCE, ROOT

optuna = require_optuna()
pytestmark = pytest.mark.slow

SPACES = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
SPACE = """
name: tiny
stages: 2
stem_width: 8
resolution: 8
num_classes: 3
model: {stem: conv3x3_s2, strides: [1, 2]}
parameters:
  depth: {uniform: [1, 2]}
  width: {choice: [8, 16], stages: ordered}
  optim.lr: {log_uniform: [0.001, 0.1]}
"""
MIXED = """
name: mixed
stages: 3
stem_width: 8
resolution: 32
num_classes: 3
parameters:
  block_type: {choice: [bottleneck, basic, vgg]}
  bottleneck_ratio: {choice: [1, 2, 4], when: {block_type: bottleneck}}
  group_width: {choice: [4, 8], stages: tied, when: {block_type: bottleneck}}
  depth: {uniform: [1, 5], stages: ordered}
  width: {log_uniform: [8, 64], multiple_of: 8, stages: ordered}
  se_ratio: {uniform: [0.1, 0.5], stages: tied}
"""
Launch = Callable[..., subprocess.CompletedProcess[str]]
Begin = Callable[..., Path]


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file


@pytest.fixture
def begin(blobs_config: Path, space_file: Path, tmp_path: Path, fresh_accelerate: None) -> Begin:
    """Begins, or joins, a search of so many trials in a folder, whose trials this process can train."""

    def make(
        name: str, trials: int, *options: str, bounds: dict[str, Bound] | None = None, **plan: Any
    ) -> Path:
        space = with_window(read_space(space_file), bounds or {})
        base = base_options(blobs_config, options)
        begin_search(tmp_path / name, space_file, space, Plan(trials=trials, **plan), base)
        return tmp_path / name

    return make


def start(folder: Path, space: Path, config: Path, *options: str) -> subprocess.Popen[str]:
    words = ["sweep", "search", space, "--out", folder, "--config", config, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "anynet_dist", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def members(folder: Path) -> list[str]:
    try:
        return [member.id for member in read_population(folder).members]
    except UserError:
        return []


def steps(folder: Path, member: str) -> list[int]:
    """The steps in the log of a member's training records."""
    log = folder / "runs" / member / "metrics.jsonl"
    return [record["step"] for record in read_records(log) if "train/loss" in record] if log.exists() else []


def told(folder: Path) -> dict[str, tuple[str, Any, Any]]:
    """Of each member what Optuna knows: how it ended, its parameters, its values."""
    return {
        trial.user_attrs[MEMBER]: (trial.state.name, trial.params, trial.values)
        for trial in Proposals(folder).members()
    }


def test_trials_are_members_and_those_behind_are_pruned(
    begin: Begin, space_file: Path, blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    options = ("--train.epochs", "4")
    folder = tmp_path / "found"
    words = (space_file, "--trials", 6, "--out", folder, "--config", blobs_config, "--seed", 1)
    said = launch("sweep", "search", *words, *options).stdout
    found = told(folder)
    assert list(found) == members(folder) == ["0000", "0001", "0002", "0003", "0004", "0005"]
    ends = {member: state for member, (state, _, _) in found.items()}
    assert set(ends.values()) == {"COMPLETE", "PRUNED"}
    status = json.loads(launch("sweep", "status", folder, "--json").stdout)
    pruned = [member for member, state in ends.items() if state == "PRUNED"]
    assert (status["finished"], status["pruned"]) == (6 - len(pruned), len(pruned))
    for member in ends:
        epochs = [
            r["epoch"] for r in read_records(folder / "runs" / member / "metrics.jsonl") if "val/top1" in r
        ]
        assert epochs == list(range(1, len(epochs) + 1))
        assert (state_of(folder, member), len(epochs) < 4) == (
            ("pruned", True) if member in pruned else ("finished", False)
        )
    assert set(collect(folder).results) == set(ends) - set(pruned), "a pruned run has no result"
    best = max(values[0] for state, _, values in found.values() if state == "COMPLETE")
    assert f"6 trials: {6 - len(pruned)} finished, {len(pruned)} pruned, 0 failed" in said
    assert f"val/top1 {best:.6g}" in said.splitlines()[-1]

    # The same seed gives the same trials, also in two calls, of which the second asks for more.
    again = begin("again", 3, *options, seed=1, pruner="asha")
    work_on_search(again, attempts=1)
    assert len(told(again)) == 3
    begin("again", 6, *options, seed=1, pruner="asha")
    work_on_search(again, attempts=1)
    assert told(again) == found
    begin("again", 2, *options, seed=1, pruner="asha")
    work_on_search(again, attempts=1)
    assert told(again) == found, "there is nothing left to do"


def test_killed_in_the_middle_no_trial_is_lost_or_trained_twice(
    space_file: Path, blobs_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    options = ("--trials", "4", "--pruner", "none", "--train.epochs", "40", "--eval.every", "10")
    first = start(folder, space_file, blobs_config, *options, "--parallel", "2")
    wait_until(lambda: any(end_of(folder, member) for member in members(folder)), "a first one")
    wait_until(
        lambda: any(len(steps(folder, each)) > 20 and not end_of(folder, each) for each in members(folder)),
        "a second one",
    )
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not any(is_held(claim_file(folder, each)) for each in members(folder)), "all are gone")
    before = told(folder)
    assert "RUNNING" in {state for state, _, _ in before.values()}
    # Two calls on one folder share what is left.
    calls = [start(folder, space_file, blobs_config, *options) for _ in range(2)]
    for call in calls:
        output, _ = call.communicate(timeout=PATIENCE)
        assert call.returncode == 0, output
    found = told(folder)
    assert list(found) == members(folder) == ["0000", "0001", "0002", "0003"]
    for member, (state, parameters, values) in found.items():
        assert (state, state_of(folder, member)) == ("COMPLETE", "finished")
        assert steps(folder, member) == list(range(1, 121)), "each step once"
        if member in before:
            assert parameters == before[member][1]
            assert before[member][0] == "RUNNING" or values == before[member][2]
    trials = Proposals(folder).study.get_trials()
    assert all(MEMBER in trial.user_attrs or trial.state.name == "FAIL" for trial in trials)


def test_a_search_that_is_asked_to_stop_goes_on(space_file: Path, blobs_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    options = ("--trials", "2", "--train.epochs", "40", "--eval.every", "20")
    call = start(folder, space_file, blobs_config, *options)
    wait_until(lambda: "0000" in members(folder) and len(steps(folder, "0000")) > 3, "member 0000 trains")
    call.send_signal(signal.SIGTERM)
    output, _ = call.communicate(timeout=PATIENCE)
    assert call.returncode == 75, output
    assert overview(folder).states == {"0000": "interrupted"}
    call = start(folder, space_file, blobs_config, *options)
    output, _ = call.communicate(timeout=PATIENCE)
    assert call.returncode == 0, output
    assert steps(folder, "0000") == list(range(1, 121))
    assert list(told(folder)) == ["0000", "0001"]


def test_two_objectives_give_a_front_that_no_trial_dominates(
    space_file: Path, blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "found"
    words = (space_file, "--trials", 5, "--out", folder, "--config", blobs_config, "--sampler", "random")
    said = launch("sweep", "search", *words, "--objective", "val/top1", "--objective", "flops").stdout
    front = json.loads((folder / "pareto.json").read_text())
    found = {member: tuple(values) for member, (_, _, values) in told(folder).items()}
    assert len(found) == 5
    flops = {member.id: member.complexity["flops"] for member in read_population(folder).members}
    for member, (score, cost) in found.items():
        records = read_records(folder / "runs" / member / "metrics.jsonl")
        assert score == [record["val/top1"] for record in records if "val/top1" in record][-1]
        assert cost == flops[member]

    def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1]

    expected = {
        member for member, own in found.items() if not any(dominates(each, own) for each in found.values())
    }
    assert {entry["id"] for entry in front} == expected
    for entry in front:
        assert tuple(entry["values"].values()) == found[entry["id"]]
        assert f"  {entry['id']}  val/top1" in said
    both = ("--objective", "val/top1", "--objective", "flops")
    refused = launch("sweep", "search", *words, *both, "--pruner", "asha", check=False)
    assert refused.returncode == 2
    assert "Optuna prunes only where there is one objective" in refused.stderr


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_what_is_suggested_is_of_the_space(path: Path) -> None:
    check_promises(read_space(path))


def test_what_is_suggested_keeps_orders_ties_and_conditions(tmp_path: Path) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text(MIXED)
    check_promises(read_space(file))


def check_promises(space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    seen: set[str] = set()
    for _ in range(60):
        trial = study.ask()
        draw = suggested(space, trial)
        assert suggested(space, trial) == draw
        assert suggested(space, optuna.trial.FixedTrial(trial.params)) == draw
        for parameter in space.parameters:
            values = draw[parameter.name]
            distribution = parameter.distribution
            if parameter.across == "ordered":
                assert list(values) == sorted(values)
            if parameter.across == "tied":
                assert len({value for value in values if value is not None}) <= 1
            if parameter.when:
                control, wanted = parameter.when
                assert [value is not None for value in values] == [held in wanted for held in draw[control]]
            for value in values:
                if isinstance(distribution, Interval):
                    assert distribution.low <= float(value) <= distribution.high
                else:
                    assert value in distribution.values or parameter.when
        try:
            model = model_of(space, draw)
        except UserError:
            assert space.is_regnet
            continue
        seen.add(json.dumps(model))
        study.tell(trial, 0.0)
    assert len(seen) > 1


def walk(folder: Path, number: int, reopen: bool = False) -> list[Any]:
    """Trials without training: the larger the network, the better."""
    proposals, parameters = Proposals(folder), []
    for _ in range(number):
        if reopen:
            proposals = Proposals(folder)
            proposals.study.ask()  # a process that was killed while it drew
        taken = proposals.take()
        assert taken is not None
        trial, claim = taken
        with claim:
            cost = read_population(folder).members[-1].complexity["params"]
            proposals.study.tell(trial.number, cost)
        parameters.append(trial.params)
    assert proposals.take() is None
    return parameters


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_draws_depend_on_the_seed_and_the_results_only(begin: Begin, sampler: str) -> None:
    expected = walk(begin("one", 14, sampler=sampler), 14)
    assert walk(begin("two", 14, sampler=sampler), 14, reopen=True) == expected
    assert walk(begin("three", 14, sampler=sampler, seed=1), 14) != expected


def test_networks_outside_the_window_are_drawn_again(begin: Begin) -> None:
    folder = begin("found", 6, bounds={"params": Bound(least=2000, most=4000)})
    walk(folder, 6)
    costs = [member.complexity["params"] for member in read_population(folder).members]
    assert all(2000 <= cost <= 4000 for cost in costs)
    refusals = Proposals(folder).refusals()
    assert set(refusals) <= {"params below 2000", "params above 4000"}
    trials = Proposals(folder).study.get_trials()
    assert len(trials) == 6 + refusals.total()
    assert all(trial.state.name == "FAIL" for trial in trials if REFUSED in trial.user_attrs)


def test_a_space_that_has_no_more_networks_is_said(begin: Begin, space_file: Path) -> None:
    space_file.write_text(re.sub("  optim.lr.*\n", "", SPACE).replace("[8, 16]", "[8]"))
    folder = begin("found", 6)
    proposals = Proposals(folder)
    taken = [proposals.take() for _ in range(4)]
    with pytest.raises(
        UserError, match=r"no further network in 500 draws after 4 of 6.*\n.*500 draws: drawn before"
    ):
        proposals.take()
    for each in taken:
        assert each
        each[1].release()


def test_a_trial_that_fails_is_told_and_costs_only_itself(begin: Begin) -> None:
    folder = begin("found", 2)
    proposals = Proposals(folder)
    taken = proposals.take()
    assert taken
    config = folder / "configs" / "0000.yaml"
    config.write_text(config.read_text().replace("conv3x3_s2", "conv3x3_s3"))
    taken[1].release()
    work_on_search(folder, attempts=2)
    assert {member: state for member, (state, _, _) in told(folder).items()} == {
        "0000": "FAIL",
        "0001": "COMPLETE",
    }
    assert overview(folder).states == {"0000": "failed", "0001": "finished"}
    assert "did you mean 'conv3x3_s2'" in (read_attempts(folder, "0000").reason or "")


def test_a_run_that_ended_untold_is_told_and_not_trained_again(begin: Begin) -> None:
    folder = begin("found", 1)
    work_on_search(folder, attempts=1)
    network = folder / "runs" / "0000" / "model.safetensors"
    changed = network.stat().st_mtime_ns
    journal = folder / "journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    assert '"state":1' in lines[-1]
    assert '"values"' in lines[-1]
    journal.write_text("".join(lines[:-1]))
    assert told(folder)["0000"][0] == "RUNNING"
    work_on_search(folder, attempts=1)
    assert told(folder)["0000"][0] == "COMPLETE"
    assert network.stat().st_mtime_ns == changed


def test_another_search_is_not_joined(begin: Begin, space_file: Path) -> None:
    begin("found", 3)
    with pytest.raises(UserError, match=r"holds another search \(seed: 0, not 1\): go on as it began"):
        begin("found", 3, seed=1)
    with pytest.raises(UserError, match=r"holds another search .*window: "):
        begin("found", 3, bounds={"flops": Bound(most=1e6)})
    with pytest.raises(UserError, match=r"base\.yaml is of a search with runs with other options"):
        begin("found", 3, "--train.epochs", "3")
    space_file.write_text(SPACE.replace("[1, 2]}\n  width", "[1, 3]}\n  width"))
    with pytest.raises(UserError, match=r"space\.yaml is of a search with another space"):
        begin("found", 3)


def test_what_cannot_be_searched_is_refused(begin: Begin, tmp_path: Path, launch: Launch) -> None:
    with pytest.raises(UserError, match=r"none: set data\.val or"):
        begin("found", 3, "--data.val_fraction", "0")
    for wrong, message in {
        ("test/top1",): "must be a score on validation images, such as val/top1, or one of flops",
        ("flops",): "one must be a score such as val/top1",
        ("val/top1", "val/top1"): "has one twice",
    }.items():
        with pytest.raises(UserError, match=message):
            Plan(trials=1, objectives=wrong)
    with pytest.raises(UserError, match="--trials must be at least 1"):
        Plan(trials=0)
    folder = begin("unknown", 1, objectives=("val/top7",))
    with pytest.raises(UserError, match=r"--objective val/top7: runs have no such score \(but .*val/top1"):
        work_on_search(folder, attempts=1)
    refused = launch("sweep", "run", folder, check=False)
    assert refused.returncode == 2
    assert "'anynet sweep search', as it was begun, goes on with it" in refused.stderr


def test_without_optuna_the_extra_is_named(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"a search needs optuna, which is not installed: .*search\]"):
        begin("found", 3)


def test_conditions_in_a_circle_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text(MIXED)
    space = read_space(file)
    circle = tuple(
        replace(each, when=("bottleneck_ratio", (1,))) if each.name == "block_type" else each
        for each in space.parameters
    )
    with pytest.raises(UserError, match=r"conditions .* of block_type, bottleneck_ratio, group_width depend"):
        suggested(replace(space, parameters=circle), optuna.create_study().ask())


def test_the_commands_of_the_page_run(
    space_file: Path, blobs_config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, with fewer trials, and with a window that tiny networks lie in."""
    page = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.M | re.S)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 4
    shutil.copy(blobs_config, tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for command in commands:
        words = shlex.split(re.sub(r"--trials \d+", "--trials 2", command).replace("360e6:400e6", ":400e6"))
        assert words[:2] == ["anynet", "sweep"]
        launch(*words[1:])
