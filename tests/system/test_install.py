"""Commands that are printed work in the shell of whoever reads them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.system.install import install_command, program


def test_a_program_of_this_environment_is_found_from_any_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(sys.executable).parent
    for path in ("/usr/bin:/bin", f"{own}:/usr/bin:/bin", f"{tmp_path}:/usr/bin:/bin"):
        monkeypatch.setenv("PATH", path)
        for folder in (own.parent.parent, tmp_path):
            monkeypatch.chdir(folder)
            done = subprocess.run(
                f"{program('python')} -c 'import sys; print(sys.prefix)'",
                shell=True,
                env={"PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.strip() == sys.prefix, (path, done.stderr)
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}/usr/bin")
    assert program("python") == "python"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (
            '{"url": "file:///src/any net", "dir_info": {"editable": true}}',
            " install -e '/src/any net[wandb]'",
        ),
        ('{"url": "file:///src/anynet", "dir_info": {}}', " install '/src/anynet[wandb]'"),
        (
            '{"url": "https://h/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            " install 'anynet-dist[wandb] @ git+https://h/a.git@abc'",
        ),
        (
            '{"url": "file:///x/a.whl", "archive_info": {}}',
            " install 'anynet-dist[wandb] @ file:///x/a.whl'",
        ),
    ],
)
def test_an_extra_comes_from_where_the_package_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, requirement: str
) -> None:
    """By an installation in tmp_path that comes first on python's path."""
    metadata = tmp_path / "anynet_dist-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: anynet-dist\nVersion: 0.1.0\n")
    (metadata / "direct_url.json").write_text(origin)
    monkeypatch.syspath_prepend(tmp_path)
    assert requirement in install_command("wandb")


def test_no_message_names_the_package_on_an_index() -> None:
    root = Path(__file__).resolve().parents[2]
    found = [*root.glob("anynet_dist/**/*.py"), *root.glob("launch/*"), *root.glob("docs/*.md")]
    files = [file for file in found if file.is_file()]
    assert len(files) > 50
    on_index = re.compile(r"pip install ['\"]?anynet-dist(\[\w+\])?['\"]?(?=\s)(?! @)")
    named = [file.name for file in files if on_index.search(file.read_text(encoding="utf-8") + "\n")]
    assert named == []


def test_the_package_runs_from_a_checkout_that_is_not_installed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "anynet_dist").symlink_to(root / "anynet_dist")
    # -S leaves out site-packages and with them the package's own metadata; the libraries come by the path.
    libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
    hidden = tmp_path / "libraries"
    hidden.mkdir()
    for folder in libraries:
        for entry in Path(folder).iterdir():
            if not entry.name.startswith(("anynet_dist", "__editable__")):
                (hidden / entry.name).symlink_to(entry)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}{os.pathsep}{hidden}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout

    assert run("-m", "anynet_dist", "--version") == "anynet not installed\n"
    command = "from anynet_dist.system.install import install_command; print(install_command('wandb'))"
    assert run("-c", command).rstrip().endswith(f"-e '{root}[wandb]'")
