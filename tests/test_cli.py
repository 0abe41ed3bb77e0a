from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist import cli
from anynet_dist.cli import Parser, main
from anynet_dist.system.errors import LostRankError, StoppedEarly, UserError
from tests.conftest import PATIENCE, ROOT


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=cwd)


def test_user_errors_end_the_process_with_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train:\n  epochs: ninety\nlr: 1\n")
    done = run("-m", "anynet_dist", "config", "show", "c.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "anynet: error: c.yaml:2: train.epochs: must be an integer >= 1 (got 'ninety')",
        "anynet: error: c.yaml:3: lr: unknown key; did you mean 'optim.lr'?",
    ]


def test_help_of_train_lists_all_options_without_torch() -> None:
    code = """if True:
        import sys
        from anynet_dist.cli import main
        try:
            main(["train", "--help"])
        finally:
            assert "torch" not in sys.modules
    """
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--optim.lr NUMBER" in done.stdout
    assert "--tracking.wandb_project TEXT" in done.stdout


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_bare_command_prints_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "usage: anynet COMMAND ..." in shown
    assert "  config      Show a config as a run would see it, or make one of another trainer's." in shown
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[:3] == ["Start:", "Data:", "Train:"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("anynet ")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "exit_code"), [(["--version"], 0), (["confg"], 2)])
def test_a_rank_ends_with_its_exit_code_while_a_thread_still_has_tensors(
    words: list[str], exit_code: int
) -> None:
    code = f"""if True:
        import sys, threading, time
        import torch
        from anynet_dist.cli import run

        def compute():
            while True:
                torch.ones(2**20).sum()

        threading.Thread(target=compute, daemon=True).start()
        sys.argv[1:] = {words}
        sys.exit(run())
    """
    rank = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=rank)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout.startswith("anynet ") or "unknown command 'confg'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["confg"], "unknown command 'confg'; did you mean 'config'?"),
        (["config", "show"], "the following arguments are required: CONFIG (see 'anynet config"),
        (["config", "shwo"], "argument ACTION: invalid choice: 'shwo'"),
        (
            ["config", "show", "0.4", "--optim.lr", "c.yaml"],
            "0.4: there is no such config file; write 'c.yaml'",
        ),
    ],
)
def test_wrong_command_lines(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert f"anynet: error: {message}" in capsys.readouterr().err


def test_commands_without_a_config_refuse_what_they_do_not_know() -> None:
    parser = Parser(prog="anynet eval")
    parser.add_argument("run")
    parser.add_argument("--split")
    with pytest.raises(UserError, match=r"unexpected argument '--splt'; did you mean '--split'\?"):
        parser.parse_args(["x", "--splt", "test"])
    with pytest.raises(UserError, match="unexpected argument 'y'"):
        parser.parse_args(["x", "y"])
    with pytest.raises(UserError, match="unexpected argument '--spl=test'"):
        parser.parse_args(["x", "--spl=test"])  # no guessing from the beginning of a name


def test_overrides_keep_their_order_between_known_options() -> None:
    from anynet_dist.config.arguments import add_config_arguments

    parser = Parser(prog="anynet train")
    add_config_arguments(parser)
    parser.add_argument("--dry-run", action="store_true")
    words = ["c.yaml", "--data.mean", "-0.1", "2", "--dry-run", "--resume", "auto", "--optim.lr=1"]
    args = parser.parse_args(words)
    assert args == argparse.Namespace(
        config="c.yaml", dry_run=True, overrides=[word for word in words[1:] if word != "--dry-run"]
    )
    assert parser.parse_args(["c.yaml"]).overrides == []


@pytest.mark.parametrize(("rank", "name"), [("0", "anynet"), ("3", "anynet [rank 3]")])
def test_another_rank_lets_rank_0_speak_first(
    rank: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli, "OTHER_RANKS_WAIT_S", 0)
    assert main(["confg"]) == 2
    assert capsys.readouterr().err.startswith(f"{name}: error: unknown command 'confg'")


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert main([]) == 130


def test_the_first_failure_of_a_run_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: list[str]) -> None:
        raise {"user": UserError("wrong"), "bug": KeyError("lost"), "gone": LostRankError("rank 1")}[argv[0]]

    file = tmp_path / "failure"
    monkeypatch.setattr(cli, "_dispatch", fail)
    monkeypatch.setenv("ANYNET_FAILURE_FILE", str(file))
    assert main(["gone"]) == 1  # it only follows from another rank's failure
    assert not file.exists()
    with pytest.raises(KeyError):
        main(["bug"])
    first = file.read_text()
    assert first.startswith("rank 0 on ")
    assert "ended with exit code 1\nTraceback (most recent call last)" in first
    assert main(["user"]) == 2
    assert file.read_text() == first
    file.unlink()
    assert main(["user"]) == 2
    assert file.read_text().endswith(" ended with exit code 2\nwrong\n")


def test_a_script_may_choose_the_exit_code_of_a_stopped_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(argv: list[str]) -> None:
        raise StoppedEarly("stopped at step 3")

    monkeypatch.setattr(cli, "_dispatch", stop)
    assert main([]) == 75
    monkeypatch.setenv("ANYNET_STOPPED_EXIT_CODE", "0")
    assert main([]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_build_is_not_lost_with_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anynet_dist", "data", "build", "digits", "--out", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert done.returncode == 0
    assert (tmp_path / "val.beton.json").exists()


@pytest.mark.slow
def test_what_the_file_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "folder"
    command = [sys.executable, "-m", "anynet_dist", "train", str(ROOT / "configs" / "digits" / "demo.yaml")]
    done = subprocess.run(
        [*command, "--run.dir", str(where)], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("anynet: error: ")
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr
