"""How this package is installed: its version, and command lines that work as printed in the user's shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

NAME = "anynet-dist"


def program(name: str) -> str:
    """What to type for a program of this Python's environment: its name where the shell finds that one."""
    own = Path(sys.executable).parent / name
    if not own.exists():
        return name
    found = shutil.which(name)
    # The folders, because Python itself is a link to one that has none of our packages.
    if found and Path(found).parent.samefile(own.parent):
        return name
    short = os.path.relpath(own)
    return shlex.quote(str(own) if short.startswith("..") else short)


def own_version() -> str:
    """This package's version, or "not installed" where its files are only on the path."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "not installed"


def install_command(extra: str) -> str:
    """How to add one of our extras to this Python, from where this package itself came."""
    return f"{_installer()} {_source(extra)}"


def install_package_command(package: str) -> str:
    """How to add a package that is in none of our extras to this Python."""
    return f"{_installer()} {package}"


def _installer() -> str:
    if _has_pip():
        return f"{program('python')} -m pip install"
    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if active and Path(active).resolve() == Path(sys.prefix).resolve():
        return "uv pip install"
    return f"uv pip install --python {program('python')}"


def _has_pip() -> bool:
    try:
        distribution("pip")
    except PackageNotFoundError:
        return False
    return True


def _source(extra: str) -> str:
    """The requirement for the installer: a checkout, git or a file, as pip noted it (PEP 610)."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:  # files on the path: those of a checkout
        return f"-e {shlex.quote(f'{Path(__file__).resolve().parents[2]}[{extra}]')}"
    if text is None:  # from an index, which then has the extra too
        return f"'{NAME}[{extra}]'"
    origin = json.loads(text)
    url = origin["url"]
    if "dir_info" in origin:
        folder = os.path.relpath(url.removeprefix("file://"))
        folder = url.removeprefix("file://") if folder.startswith("..") else folder
        return f"{'-e ' if origin['dir_info'].get('editable') else ''}{shlex.quote(f'{folder}[{extra}]')}"
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return shlex.quote(f"{NAME}[{extra}] @ {url}")
