"""What launch/setup.sh does for FFCV, for an environment that pip or uv made: `anynet doctor --fix ffcv`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable

from anynet_dist.system.errors import UserError
from anynet_dist.system.shipped import shipped

FFCV = "ffcv==1.0.2"
# ffcv asks for opencv-python, whose wheel needs libGL; the headless one takes its place, so ffcv itself is
# installed without what it asks for.
NEEDED = (
    "assertpy",
    "fastargs",
    "numba>=0.60",
    "opencv-python-headless>=4.9",
    "pytorch_pfn_extras",
    "setuptools>=77",
    "terminaltables",
    "tqdm",
)
THREADING = "tbb>=2021.6"  # numba's fork-safe threading layer, made for x86-64 alone
SYSTEM_PACKAGES = "libopencv-imgproc-dev libturbojpeg0-dev pkg-config python3-dev g++"


def install_ffcv(say: Callable[[str], None]) -> None:
    """Build and install FFCV into this Python's environment, showing the installer's output.

    Raises UserError, saying what to install, where FFCV cannot be compiled here.
    """
    if sys.platform != "linux":
        raise UserError("FFCV can be built on Linux only; the torch loader serves, more slowly")
    environment = _build_environment()
    missing = _missing_libraries(environment)
    if missing:
        raise UserError(
            f"FFCV needs {missing} to compile: 'apt-get install {SYSTEM_PACKAGES}' as root, or 'conda install"
            " -c conda-forge libopencv libjpeg-turbo pkg-config cxx-compiler', then again"
            " 'anynet doctor --fix ffcv'"
        )
    needed = [*NEEDED, THREADING] if os.uname().machine == "x86_64" else [*NEEDED]
    for words in (needed, ["--no-deps", FFCV]):
        command = [*_installer(), *words]
        say(" ".join(command))
        if subprocess.run(command, check=False, env=environment).returncode:
            raise UserError(
                f"{' '.join(command[:4])} failed, see above; the torch loader serves, more slowly"
            )
    if subprocess.run([sys.executable, "-c", "import ffcv"], check=False).returncode:
        raise UserError("FFCV was built but does not import, see above; the torch loader serves, more slowly")
    say("FFCV is installed")


def _build_environment() -> dict[str, str]:
    """Variables that lead the compiler to the two OpenCV libraries that FFCV uses, and to conda's headers."""
    environment = dict(os.environ)
    _prepend(environment, "PKG_CONFIG_PATH", str(shipped("launch/ffcv")))
    conda = environment.get("CONDA_PREFIX")
    if conda:
        _prepend(environment, "CPATH", f"{conda}/include:{conda}/include/opencv4")
        _prepend(environment, "LIBRARY_PATH", f"{conda}/lib")
    return environment


def _prepend(environment: dict[str, str], name: str, value: str) -> None:
    environment[name] = f"{value}:{environment[name]}" if environment.get(name) else value


def _missing_libraries(environment: dict[str, str]) -> str:
    """What keeps a source file that includes what ffcv includes from compiling; empty where nothing does."""
    compiler = environment.get("CXX", "g++")
    programs = [program for program in ("pkg-config", compiler) if not shutil.which(program)]
    if programs:
        return " and ".join(programs)
    if subprocess.run(["pkg-config", "--exists", "libturbojpeg"], check=False, env=environment).returncode:
        return "libturbojpeg"
    headers = ("-I", sysconfig.get_path("include"), "-I", "/usr/include/opencv4")
    compiled = subprocess.run(
        [compiler, "-fsyntax-only", "-x", "c++", *headers, "-"],
        input=b"#include <Python.h>\n#include <opencv2/imgproc.hpp>\n",
        capture_output=True,
        check=False,
        env=environment,
    )
    return "the headers of Python and of OpenCV" if compiled.returncode else ""


def _installer() -> list[str]:
    """pip, or uv in an environment that it made without pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    uv = shutil.which("uv")
    if uv is None:
        raise UserError(
            f"neither pip nor uv is there to install with: '{sys.executable} -m ensurepip' brings pip"
        )
    return [uv, "pip", "install", "--python", sys.executable]
