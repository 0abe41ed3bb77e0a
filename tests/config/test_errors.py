"""Every message a config can draw from us, word for word."""

# ruff: noqa: E501 - messages stand whole, as they are searched for

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anynet_dist.config import ConfigError, load_config

Errors = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{optim: {weigth_decay: 1}}", "optim.weigth_decay: unknown key; did you mean 'optim.weight_decay'?"),
        ("lr: 0.4", "lr: unknown key; did you mean 'optim.lr'?"),
        ("{data: {flip: true}}", "data.flip: unknown key; did you mean 'data.augment.flip'?"),
        ("{optimizer: {momentum: 0}}", "optimizer.momentum: unknown key; did you mean 'optim.momentum'?"),
        ("{train: {batch_size: 64}}", "train.batch_size: unknown key; did you mean 'train.global_batch'?"),
        ("{zzz: 1}", "zzz: unknown key"),
        ("{optim: {lr: {peak: 1}}}", "optim.lr.peak: unknown key; did you mean 'optim.lr'?"),
        ("{train: {epochs: ninety}}", "train.epochs: must be an integer >= 1 (got 'ninety')"),
        ("{train: {epochs: '90'}}", "train.epochs: must be an integer >= 1 (got '90')"),
        ("{train: {epochs: 3.0}}", "train.epochs: must be an integer >= 1 (got 3.0)"),
        ("{train: {epochs: true}}", "train.epochs: must be an integer >= 1 (got True)"),
        ("{train: {epochs: null}}", "train.epochs: must be an integer >= 1 (got None)"),
        ("{train: {label_smoothing: 1}}", "train.label_smoothing: must be a number >= 0 and < 1 (got 1)"),
        ("{optim: {lr: .inf}}", "optim.lr: must be a number > 0 (got '.inf')"),
        ("{optim: {lr: 1e999}}", "optim.lr: must be a number > 0 (got '1e999')"),
        ("{optim: {lr: {}}}", "optim.lr: must be a number > 0 (got {})"),
        ("{data: {augment: {flip: 'true'}}}", "data.augment.flip: must be true or false (got 'true')"),
        ("{data: {augment: {flip: yes}}}", "data.augment.flip: must be true or false (got 'yes')"),
        ("{data: {mean: [1, 2]}}", "data.mean: must be a list of 3 numbers >= 0 and <= 1 (got [1, 2])"),
        ("{data: {mean: [124, 116, 104]}}", "data.mean: must be a list of 3 numbers >= 0 and <= 1 (got [124, 116, 104])"),
        ("{data: {std: [0.2, 0.2, 0]}}", "data.std: must be a list of 3 numbers > 0 (got [0.2, 0.2, 0])"),
        (
            "{model: {strides: [1, x]}}",
            "model.strides: must be an integer >= 1 or a list of integers >= 1 (got [1, 'x'])",
        ),
        ("{run: {name: 5}}", "run.name: must be a string, so put it in quotes (got 5)"),
        ("{optim: {name: sdg}}", "optim.name: must be one of sgd, adam, adamw, torch:NAME, timm:NAME, or what a plug-in registers; did you mean 'sgd'? (got 'sdg')"),
        *(
            (
                f"{{train: {{precision: {word}}}}}",
                "train.precision: must be one of auto, fp32, bf16, fp16; plain single precision is called fp32"
                f" (got {value})",
            )
            for word, value in [("no", "'no'"), ("off", "'off'"), ("false", "False"), ("32", "32")]
        ),
        ("{train: {epochs: 1000000000000000000}}", "train.epochs: must be at most 1,000,000 (got 1,000,000,000,000,000,000)"),
        ("{data: {train_res: 10000000}}", "data.train_res: must be at most 16,384 (got 10,000,000)"),
        ("{train: {global_batch: 1000000000000000}}", "train.global_batch: must be at most 16,777,216 (got 1,000,000,000,000,000)"),
        ("{data: {workers: 1000000}}", "data.workers: must be at most 1,024 (got 1,000,000)"),
        ("{run: {seed: 4294967296}}", "run.seed: must be at most 4,294,967,295 (got 4,294,967,296)"),
        ("{run: {timeout: 1e300}}", "run.timeout: must be at most 100,000 (got 1e+300)"),
        ("{model: resnet50}", "model: is a section of options (got 'resnet50')"),
        ("{optim: {lr: !!python/name:os.system x}}", "optim.lr: cannot be read as tag:yaml.org,2002:python/name:os.system"),
        ("{base: 3}", "base: must be the path of a config file, or a list of them (got 3)"),
        ("[1, 2]", "must be keys and values, such as 'optim:' with 'lr: 0.4' below it"),
        ("{optim: &a {lr: *a}}", "an anchor contains an alias of itself"),
        ("{optim: {[1]: 2}}", "optim: a key must be a name"),
        ("optim: {lr: 1", "not valid YAML: expected ',' or '}', but got '<stream end>'"),
        ("!!python/object:os.system {}", "must be keys and values, such as 'optim:' with 'lr: 0.4' below it"),
    ],
)  # fmt: skip
def test_message_names_file_line_key_and_remedy(errors: Errors, text: str, message: str) -> None:
    assert errors(text) == [f"c.yaml:1: {message}"]


LAUGHS = "a: &a0 [ha, ha]\n" + "".join(f"b{n}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "c.yaml:13: more than 10,000 keys and values, aliases expanded"),
        (LAUGHS.replace("[", "{x: ").replace(", ", ", y: ").replace("]", "}"), "c.yaml:12: more than 10,000 keys and values, aliases expanded"),
        (f"a: &a {'x' * 500_000}\noptim: [*a, *a, *a]\n", "c.yaml:2: more than 10,000 keys and values, aliases expanded"),
        ("plugins:\n" + "- x.py\n" * 10_000, "c.yaml:2: more than 10,000 keys and values, aliases expanded"),
        ("optim:\n  lr: " + "[" * 10_000, "c.yaml:2: more than 20 levels deep"),
        ("a:\n" + "".join("  " * n + "a:\n" for n in range(1, 1000)), "c.yaml:20: more than 20 levels deep"),
        ("#" * 2**20 + "\n", "c.yaml: is larger than 1,048,576 bytes, so it is no config"),
    ],
    ids=["lists", "mappings", "long text", "long list", "brackets", "sections", "large file"],
)  # fmt: skip
def test_a_file_that_grows_beyond_all_bounds_is_refused(errors: Errors, text: str, message: str) -> None:
    assert errors(text) == [message]


def test_bases_that_are_named_again_and_again_are_read_once(write: Callable[..., None]) -> None:
    write(**{f"b{n}": f"base: [b{n + 1}.yaml, b{n + 1}.yaml]" for n in range(15)}, b15="optim: {weigth: 1}")
    with pytest.raises(ConfigError) as caught:
        load_config("b0.yaml")
    assert str(caught.value) == "b15.yaml:1: optim.weigth: unknown key; did you mean 'optim.weight_decay'?"


def test_too_long_a_chain_of_bases_is_refused(write: Callable[..., None]) -> None:
    write(**{f"b{n}": f"base: b{n + 1}.yaml" for n in range(30)}, b30="")
    with pytest.raises(ConfigError, match=r"^b19\.yaml:1: base: more than 20 files deep$"):
        load_config("b0.yaml")


def test_what_is_no_file_is_named_instead_of_waited_for(write: Callable[..., None]) -> None:
    write(c="base: pipe.yaml")
    os.mkfifo("pipe.yaml")
    with pytest.raises(ConfigError, match=r"^pipe\.yaml: is a named pipe, not a file$"):
        load_config("pipe.yaml")
    with pytest.raises(ConfigError, match=r"^c\.yaml:1: base: 'pipe\.yaml' is a named pipe, not a file$"):
        load_config("c.yaml")
    with pytest.raises(ConfigError, match=r"^/dev/null: is a device, not a file$"):
        load_config("/dev/null")
    with pytest.raises(ConfigError, match=r"^\.: is a folder, not a file$"):
        load_config(".")


@pytest.mark.parametrize("command", ["config show <(cat c.yaml)", "config show /dev/stdin < <(cat c.yaml)"])
def test_a_config_may_come_through_a_pipe_of_the_shell(write: Callable[..., None], command: str) -> None:
    write(c="optim: {lr: 0.125}")
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m anynet_dist {command}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lr: 0.125" in done.stdout


def test_a_key_set_twice(errors: Errors) -> None:
    assert errors("optim:\n  lr: 1\noptim:\n  lr: 2\n") == ["c.yaml:3: optim: set twice, first in line 1"]
    assert errors("optim:\n  lr: 1\noptim.lr: 2\n") == ["c.yaml:3: optim.lr: set twice, first in line 2"]


def test_syntax_error_has_its_line(errors: Errors) -> None:
    assert errors("optim:\n  lr: 1\n momentum: 2\n") == [
        "c.yaml:3: not valid YAML: expected <block end>, but found '<block mapping start>'"
    ]


def test_everything_wrong_is_reported_at_once_by_file_and_line(
    write: Callable[..., None], errors: Errors
) -> None:
    write(base="train:\n  epochs: 3\n  seed: 1\noptim:\n  lr: -1\n")
    text = """\
        base: base.yaml
        optim:
          weigth_decay: 1
          name: sdg
        schedule:
          warmup_epochs: 5
        """
    assert errors(text, "--train.precision", "fp23", "--modle.stem", "x") == [
        "base.yaml:3: train.seed: unknown key; did you mean 'run.seed'?",
        "base.yaml:5: optim.lr: must be a number > 0 (got -1)",
        "c.yaml:3: optim.weigth_decay: unknown key; did you mean 'optim.weight_decay'?",
        "c.yaml:4: optim.name: must be one of sgd, adam, adamw, torch:NAME, timm:NAME, or what a plug-in registers; did you mean 'sgd'? (got 'sdg')",
        "c.yaml:6: schedule.warmup_epochs: 5 epochs of warm-up are longer than the training, train.epochs: 3",
        "--modle.stem: unknown option; did you mean '--model.stem'?",
        "--train.precision: must be one of auto, fp32, bf16, fp16; did you mean 'fp32'? (got 'fp23')",
    ]


def test_bases_that_go_round_in_a_circle(write: Callable[..., None]) -> None:
    write(a="base: sub/b.yaml", sub__b="optim: {lr: 1}\nbase: ../a.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config("a.yaml")
    assert str(caught.value) == ("sub/b.yaml:2: base: goes round in a circle: a.yaml -> sub/b.yaml -> a.yaml")


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such config file$"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"write 'c\.yaml' before the options$"):
        load_config("0.4", ["--optim.lr", "c.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: is not a text file in UTF-8$"):
        load_config(tmp_path / "binary.yaml")
    (tmp_path / "control.yaml").write_bytes(b"a: \x01")
    with pytest.raises(ConfigError, match=r"control\.yaml: not valid YAML: unacceptable character"):
        load_config(tmp_path / "control.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], "--optim.lrr: unknown option; did you mean '--optim.lr'?"),
        (["--lr", "1"], "--lr: unknown option; did you mean '--optim.lr'?"),
        (["--zzz", "1"], "--zzz: unknown option; see --help for all of them"),
        (["--checkpoint", "1"], "--checkpoint: is a section; set what is in it: --checkpoint.every, --checkpoint.keep_last, --checkpoint.keep_best, --checkpoint.keep_every, --checkpoint.on_error, --checkpoint.in_background"),
        (["--optim.lr", "fast"], "--optim.lr: must be a number > 0 (got 'fast')"),
        (["--optim.lr", "-.1"], "--optim.lr: must be a number > 0 (got -0.1)"),
        (["--optim.lr", "&a [*a]"], "--optim.lr: must be a number > 0 (got '&a [*a]')"),
        (["--model.strides", "[" * 5000], f"--model.strides: must be an integer >= 1 or a list of integers >= 1 (got '{'[' * 199}...)"),
        (["--train.epochs", "9" * 5000], f"--train.epochs: must be an integer >= 1 (got '{'9' * 199}...)"),
        (["--optim.lr", "1", "2"], "--optim.lr: must be a number > 0 (got [1, 2])"),
        (["--checkpoint.every", "0 steps"], "--checkpoint.every: must be an interval such as '500 steps', '10 minutes' or '2 epochs' or an integer >= 1 (got '0 steps')"),
        (["--run.max_time", "12h"], "--run.max_time: must be a time as HH:MM:SS or D-HH:MM:SS (got '12h')"),
        (["--optim.lr"], "--optim.lr: needs a value: a number > 0"),
        (["--optim.momentum", "None"], "--optim.momentum: must be a number >= 0 and < 1 (got 'None')"),
        (["--data.augment.no-flip", "x"], "--data.augment.no-flip: takes no value (got 'x')"),
        (["--optim.no-lr"], "--optim.no-lr: unknown option; did you mean '--optim.lr'?"),
        (["0.4"], "0.4: unexpected; options look like --optim.lr 0.4"),
    ],
)  # fmt: skip
def test_an_override_is_called_by_its_flag(errors: Errors, words: list[str], message: str) -> None:
    assert errors("", *words) == [message]
