"""`anynet completion`: what a shell offers after the beginning of a command."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from anynet_dist.cli import main


@pytest.fixture(scope="module")
def bash() -> str:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as script:
        assert main(["completion", "bash"]) == 0
    return script.getvalue()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("lr",), {"lr-find"}),
        (("he",), {"help"}),
        (("help", "tra"), {"train"}),
        (("data", "b"), {"build"}),
        (("data", "build", "--ov"), {"--overwrite"}),
        (("train", "c.yaml", "--optim.mom"), {"--optim.momentum"}),
        (("train", "c.yaml", "--dry"), {"--dry-run"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
        (("train", "c"), set()),  # a file: bash's own completion takes over
    ],
)
def test_bash_offers(bash: str, words: tuple[str, ...], offered: set[str]) -> None:
    typed = f"COMP_WORDS=(anynet {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}"
    done = subprocess.run(
        ["bash", "-c", f'{bash}\n{typed}\n_anynet\necho "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


def test_zsh_and_fish_name_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, line in (
        ("zsh", "bashcompinit"),
        ("fish", "-n '__fish_seen_subcommand_from train' -l optim.lr"),
    ):
        assert main(["completion", shell]) == 0
        assert line in capsys.readouterr().out


def test_help_of_a_command_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "lr-find"])
    assert "usage: anynet lr-find CONFIG" in capsys.readouterr().out
    assert main(["help"]) == 0
    assert "  lr-find     Suggest a learning rate" in capsys.readouterr().out
    assert main(["help", "trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
