#!/usr/bin/env bash
# Sets up .venv with everything that `make demo` and `make test` need. Running it again is quick.
#
#   PYTHON=python3.12 launch/setup.sh     choose the interpreter (3.11 to 3.13)
#   ANYNET_FFCV=no launch/setup.sh        leave FFCV out
#
# FFCV needs system packages. As root, or with password-less sudo, they are installed; otherwise one
# line says what is missing and the set-up continues without FFCV.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The system's certificates, which a company's proxy may have added to (two names, for old and new versions of uv).
export UV_NATIVE_TLS=true UV_SYSTEM_CERTS=true
python=${PYTHON:-python3}
stamp=.venv/.setup-complete

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt_install PACKAGE...: fails quietly where there is no apt or no right to use it.
apt_install() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null || return 1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install --no-install-recommends "$@" >/dev/null
}

check_python() {
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
        say "python 3.11 to 3.13 is needed, $python is $("$python" --version 2>&1)" >&2
        exit 2
    }
}

# uv makes the environment where it is installed; elsewhere it is installed into the environment.
make_environment() {
    if command -v uv >/dev/null; then
        uv=uv
        [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
        return
    fi
    if ! [ -x .venv/bin/uv ]; then
        "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv || {
            say "this python cannot make virtual environments: apt-get install python3-venv" >&2
            exit 2
        }
        "$python" -m venv .venv
        .venv/bin/python -m pip install --disable-pip-version-check uv
    fi
    uv=.venv/bin/uv
}

# Shows what it downloads.
pip_install() {
    "$uv" pip install --python .venv/bin/python --constraint constraints.txt "$@"
}

# Whether a source file that includes what ffcv includes would compile.
has_ffcv_libraries() {
    local headers
    headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    command -v pkg-config >/dev/null && pkg-config --exists libturbojpeg &&
        printf '#include <Python.h>\n#include <opencv2/imgproc.hpp>\n' |
        "${CXX:-g++}" -fsyntax-only -x c++ -I "$headers" -I /usr/include/opencv4 - 2>/dev/null
}

install_ffcv() {
    local packages=(libopencv-imgproc-dev libturbojpeg0-dev pkg-config python3-dev)
    if [ "${ANYNET_FFCV:-yes}" = no ] || [ "$(uname -s)" != Linux ]; then
        say "without FFCV: the torch loader is used, which is slower"
        return
    fi
    # conda keeps headers and libraries of its own
    [ -z "${CONDA_PREFIX:-}" ] || export CPATH="$CONDA_PREFIX/include:$CONDA_PREFIX/include/opencv4" \
        LIBRARY_PATH="$CONDA_PREFIX/lib"
    has_ffcv_libraries || apt_install "${packages[@]}" || true
    if ! has_ffcv_libraries; then
        say "without FFCV (the torch loader is used, which is slower); to add it: apt-get install ${packages[*]}" \
            "(or: conda install -c conda-forge libopencv libjpeg-turbo pkg-config), then make setup"
        return
    fi
    export PKG_CONFIG_PATH="$PWD/launch/ffcv${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
    if ! { pip_install --editable '.[ffcv]' && .venv/bin/python -c 'import ffcv'; }; then
        say "FFCV did not build or import (see above); the torch loader is used, which is slower"
    fi
}

# Containers often keep Python from writing bytecode; without it each command would compile torch's 2,000 modules anew,
# which takes longer than running them.
write_bytecode() {
    [ -n "${PYTHONDONTWRITEBYTECODE:-}" ] || return 0
    say "compiling Python's modules, because PYTHONDONTWRITEBYTECODE keeps Python from doing it later"
    local packages
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Files that are no valid Python, such as templates, fail; they are not imported either.
    .venv/bin/python -m compileall -q -j 0 "$packages" anynet_dist >/dev/null || true
}

fingerprint() {
    { cat pyproject.toml constraints.txt launch/setup.sh launch/ffcv/opencv4.pc; echo "$python ${ANYNET_FFCV:-yes}"; } |
        cksum
}

if [ -x .venv/bin/anynet ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ]; then
    exit 0
fi
started=$SECONDS
check_python
say "installing into .venv (python, torch and the rest; a few GB the first time)"
make_environment
pip_install --editable '.[deepspeed,dev,docs,export,search,tensorboard,wandb]'
install_ffcv
write_bytecode
# A set-up that failed to add FFCV is tried again next time.
if [ "${ANYNET_FFCV:-yes}" = no ] || [ "$(uname -s)" != Linux ] || .venv/bin/python -c 'import ffcv' 2>/dev/null; then
    fingerprint >"$stamp"
fi
say "done in $((SECONDS - started)) s"
