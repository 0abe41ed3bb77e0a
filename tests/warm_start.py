"""Commands of `anynet` in processes that are forked off one which has imported the package already.

Importing torch takes longer than what most tests have it do. A process forked here is one like any other,
with an environment, a folder, an output and an exit code of its own; only its imports are done. The process
that forks is `python -m tests.warm_start`; a test talks to it through `WarmStart`.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from anynet_dist.system.threads import limit_spinning

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    *("anynet_dist.training.trainer", "anynet_dist.training.evaluate_run", "anynet_dist.report.run_report"),
    *("anynet_dist.export.exporter", "anynet_dist.commands.train", "matplotlib.pyplot", "sklearn.datasets"),
    *("torchvision", "torch._inductor.config"),  # these take as long as torch; each optimizer imports dynamo
)


class Fault(NamedTuple):
    """What goes wrong in a process that has tests/faults/faults.c preloaded."""

    root: Path
    """Where: at an operation on a file below this folder, which exists."""
    number: int
    """At which operation, counted from 1."""
    mode: int
    """A `Mode` of tests/faults/faulty_runs.py."""
    listing: Path | None = None
    """A file that gets a line for each operation."""


class WarmStart:
    """Runs commands in processes forked off one that is started with the first of them."""

    def __init__(self, preload: Path | None = None) -> None:
        """`preload` is a library to load before all others."""
        self._server: subprocess.Popen[bytes] | None = None
        self._preload = {"LD_PRELOAD": str(preload)} if preload else {}

    def run(
        self,
        words: Sequence[object],
        *,
        timeout: float,
        environment: Mapping[str, str],
        folder: Path | None = None,
        ranks: int = 1,
        fault: Fault | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` returns for `python -m anynet_dist WORDS`, in one process or in several.

        As with a launcher, a rank that fails ends the others, and the exit code is then 1. Raises
        TimeoutExpired.
        """
        with tempfile.TemporaryDirectory() as made:
            out, err = Path(made) / "out", Path(made) / "err"
            environments = [{**environment, **place} for place in _places(ranks)]
            code = self._ask(
                {
                    "words": [str(word) for word in words],
                    "folder": str(folder or Path.cwd()),
                    "environments": environments,
                    "outputs": [str(out), str(err)],
                    "fault": fault and [str(fault.root), *fault[1:3], fault.listing and str(fault.listing)],
                },
                timeout,
            )
            texts = [path.read_bytes().decode(errors="replace").replace("\r\n", "\n") for path in (out, err)]
        if code is None:
            raise subprocess.TimeoutExpired([str(word) for word in words], timeout, *texts)
        return subprocess.CompletedProcess(["anynet", *map(str, words)], code, *texts)

    def close(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            self._server.kill()
            self._server.communicate()

    def _ask(self, request: dict[str, Any], timeout: float) -> int | None:
        """The exit code; None where there is none in time, in which case the processes are killed."""
        if self._server is None:
            command = [sys.executable, "-m", "tests.warm_start"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **self._preload}
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT
            )
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        in_time, _, _ = select.select([server.stdout], [], [], timeout)
        if not in_time:
            for child in psutil.Process(server.pid).children(recursive=True):
                child.kill()
        answer = server.stdout.readline()
        return int(answer) if in_time else None


WARM = WarmStart()
"""The one of this process."""
atexit.register(WARM.close)


def _places(ranks: int) -> list[dict[str, str]]:
    """What a launcher sets for each of several ranks; nothing for one."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def serve() -> int | None:
    """Import, then fork for each request of stdin and answer with an exit code.

    Returns None in a process that was forked, which is to run the command; otherwise the exit code.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := requests.readline():
        request = json.loads(line)
        pids = []
        for environment in request["environments"]:
            pid = os.fork()
            if pid == 0:
                requests.close()
                os.close(answers)
                _become(request, environment)
                return None
            pids.append(pid)
        os.write(answers, f"{_wait(pids)}\n".encode())
    return 0


def _become(request: dict[str, Any], environment: dict[str, str]) -> None:
    """Take over the environment, folder, outputs and command of a request."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(request["outputs"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    if request["fault"]:
        _arm(*request["fault"])
    sys.argv = [str(ROOT / "anynet_dist" / "__main__.py"), *request["words"]]


def _arm(root: str, number: int, mode: int, listing: str | None) -> None:
    arm = ctypes.CDLL(None).fault_arm
    arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_char_p]
    arm(os.fsencode(root), number, mode, listing and os.fsencode(listing))


def _wait(pids: list[int]) -> int:
    """Wait for all; the exit code of one process, or 0 or 1 for several: one that fails ends the others."""
    left, codes = set(pids), []
    while left:
        pid, status = os.wait()
        left.discard(pid)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1]:
            for other in left:
                os.kill(other, signal.SIGTERM)
    return codes[0] if len(pids) == 1 else int(any(codes))


if __name__ == "__main__":
    limit_spinning()
    code = serve()
    if code is None:
        from anynet_dist.cli import run

        code = run()
    sys.exit(code)
