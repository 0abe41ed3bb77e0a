"""Malformed files are refused in one sentence that names the file and the place in it."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.sweep.importers import FORMATS, import_population
from anynet_dist.system.errors import UserError
from tests.sweep.test_importers import ANYNET, CELLS, JOB, MACRO, NET, REGNET, RUN, TESTS, imported


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


BAD_MACRO = MACRO["02000100"]
REFUSED = [
    ("nas-bench-macro", "{", r"file\.json is not JSON"),
    ("nas-bench-macro", "[" * 100_000, r"file\.json is not JSON"),
    ("nas-bench-macro", [1], "must be an object with keys, not list of 1"),
    ("nas-bench-macro", {}, "has no network with a result"),
    ("nas-bench-macro", {"0210": BAD_MACRO}, "'0210' is no network: eight digits"),
    ("nas-bench-macro", {"00000003": BAD_MACRO}, "eight digits from 0 to 2"),
    ("nas-bench-macro", {"02000100": 3}, "network 02000100 must be an object with keys, not 3"),
    ("nas-bench-macro", {"02000100": without(BAD_MACRO, "flops")}, "network 02000100 has no 'flops'"),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "flops": "4"}}, "flops must be a number, not '4'"),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "params": True}}, "params must be a number, not True"),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "params": -1}}, "finite number of at least 0, not -1"),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "params": 10**400}}, "params must be a finite number"),
    (
        "nas-bench-macro",
        {"02000100": {**BAD_MACRO, "flops": math.inf}},
        "finite number of at least 0, not inf",
    ),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "test_acc": []}}, "test_acc must be a list with at least"),
    (
        "nas-bench-macro",
        {"02000100": {**BAD_MACRO, "test_acc": [90, math.nan]}},
        r"test_acc\[1\] must be a finite number from 0 to 100, not nan",
    ),
    ("nas-bench-macro", {"02000100": {**BAD_MACRO, "test_acc": [101]}}, r"test_acc\[0\] .* from 0 to 100"),
    ("nas-bench-201", b"", "is no whole pickle"),
    ("nas-bench-201", pickle.dumps(CELLS)[:-9], "is no whole pickle"),
    ("nas-bench-201", b"Pabc\n.", "is no whole pickle"),
    ("nas-bench-201", b"{}", "is no whole pickle"),
    ("nas-bench-201", [1], "must be an object with keys"),
    ("nas-bench-201", {7: CELLS["333333"]}, "7 is no network: six digits from 0 to 4"),
    ("nas-bench-201", {10**5000: 1}, "a huge number is no network"),
    ("nas-bench-201", {"333333": 10**5000}, "must be an object with keys, not a huge number"),
    ("nas-bench-201", {"333335": CELLS["333333"]}, "'333335' is no network"),
    ("nas-bench-201", {"333333": without(CELLS["333333"], "val_acc")}, "has no 'val_acc'"),
    ("nds", [], "must be a list with at least one entry"),
    ("nds", {"top": 3}, "'top' must be a list with at least one entry, not 3"),
    ("nds", [JOB, 4], "job 1 must be an object"),
    ("nds", [without(JOB, "min_test_top1")], "job 0 has no 'min_test_top1'"),
    ("nds", [without(JOB, "net")], "job 0 has no 'net'"),
    ("nds", [{**JOB, "net": {**NET, "ds": [1]}}], r"differ in length \(ds 1, ws 2, bot_muls 2, num_gs 2\)"),
    ("nds", [{**JOB, "net": {**NET, "ds": [1.5, 1]}}], r"ds\[0\] must be a whole number, not 1\.5"),
    ("nds", [{**JOB, "net": {**NET, "ds": [10**9, 1]}}], r"ds\[0\] must be a finite number from 0 to 1e\+06"),
    (
        "nds",
        [{**JOB, "net": {**NET, "bot_muls": [0, 1]}}],
        r"bot_muls\[0\] must be a finite number from 0\.001",
    ),
    ("nds", [{**JOB, "net": {**NET, "bot_muls": [1e300, 1]}}], r"bot_muls\[0\] .* from 0\.001 to 1000"),
    ("nds", [{**JOB, "net": {"depth": 2, "width": 3}}], "net has no 'genotype'"),
    ("pycls", {"cfg": 1}, "must be a list with at least one entry, not dict of 1"),
    ("pycls", [without(RUN, "cfg")], "run 0 has no 'cfg'"),
    (
        "pycls",
        [{**RUN, "cfg": {"MODEL": {"TYPE": "regnt"}}}],
        r"MODEL\.TYPE must be one of anynet, effnet, regnet, not 'regnt'",
    ),
    ("pycls", [{**RUN, "cfg": {"MODEL": {"TYPE": "regnet"}}}], "cfg has no 'REGNET'"),
    (
        "pycls",
        [{**RUN, "cfg": {**REGNET, "REGNET": {**REGNET["REGNET"], "WM": 1}}}],
        "REGNET: RegNet needs w0",
    ),
    ("pycls", [{**RUN, "cfg": {**ANYNET, "OPTIM": 3}}], "OPTIM must be an object"),
    ("pycls", [{**RUN, "test_epoch": {**TESTS, "top1_err": [1]}}], r"\(epoch_ind 2, top1_err 1\)"),
    ("pycls", [{**RUN, "test_epoch": without(TESTS, "epoch_max")}], "test_epoch has no 'epoch_max'"),
    ("csv", "", "has no header in its first line"),
    ("csv", "error,flops\n", "has a header and no networks"),
    ("csv", "flops,depth\n1,2\n", r"table\.csv:1: one column error, top1 or accuracy .* there is none"),
    ("csv", "error,top1\n1,2\n", "there are error and top1"),
    ("csv", "error,x,x\n1,2,3\n", "two columns 'x'"),
    ("csv", "error,,x\n1,2,3\n", "column 2 has no name"),
    ("csv", "error,x\n1,2\n1\n", r"table\.csv:3 has 1 cells, the header 2"),
    ("csv", "error\nlow\n", r"table\.csv:2: error must be a number, not 'low'"),
    ("csv", 'error\n"two\nlines"\n', r"table\.csv:3: error must be a number, not 'two\\nlines'"),
    ("csv", "error\nnan\n", r"table\.csv:2: error must be a finite number from 0 to 100, not nan"),
    ("csv", "error,flops\n5,-3\n", "flops must be a finite number of at least 0"),
    ("csv", "error,x\n5,inf\n", r"table\.csv:2: x must be a finite number, not inf"),
    ("csv", "top1\n0.9\n0.8\n", "every top1 is 1 or less: percent is needed"),
    ("csv", "id,error\n../a,5\n", r"id '\.\./a' must be letters, digits"),
    ("csv", "id,error,x\na,5,1\na,6,2\n", r"table\.csv:3: network 'a' was there already, with other values"),
    ("csv", "error,x\n,1\n", "has no network with a result"),
    ("csv", 'error,x\n5,"1\n', r"table\.csv:\d cannot be understood"),
]


@pytest.mark.parametrize(("format", "content", "message"), REFUSED, ids=[m[:40] for _, _, m in REFUSED])
def test_malformed_files_are_refused(tmp_path: Path, format: str, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        imported(tmp_path, format, content)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value), "the message names the file"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, format: str) -> None:
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        import_population(format, tmp_path / "none.json")


@pytest.mark.parametrize("format", ["nas-bench-macro", "nds", "pycls", "csv"])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, format: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match=r"is not (JSON|UTF-8 text)"):
        import_population(format, file)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        import_population(format, tmp_path)


def test_formats_and_data_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown format 'nasbench-201'; did you mean 'nas-bench-201'\?"):
        import_population("nasbench-201", tmp_path)
    with pytest.raises(UserError, match="csv has no data sets to choose from"):
        import_population("csv", tmp_path, dataset="cifar10")
