"""One owner at a time: a lock file that names the host and process that hold it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from anynet_dist.system.errors import RunError, UserError
from anynet_dist.system.files import naming

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
STALE_AFTER_S = 120.0


class LostLockError(RunError):
    """Another process has taken over what this one had to itself."""


class Lock:
    """Holds a lock file from its making until `release`, or until the process ends, however it ends.

    Raises UserError that names the owner when another process has it. A lock whose owner is gone is
    stale and is replaced. On one machine the kernel knows whether an owner still runs. An owner on another
    machine has a heartbeat: it touches the file every 20 seconds, and after two minutes without, its lock is
    stale. So is at once that of an earlier start of the same SLURM job, which ended before the job was queued
    again. With `heartbeat` false no thread touches the file, and the lock is respected from elsewhere.

    An owner that was suspended for longer than that may find that another has taken its lock: `check`
    says so, to be called before something is written that only the owner may write.
    """

    def __init__(self, path: Path, purpose: str, heartbeat: bool = True) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            self._descriptor, previous = _acquire(path, purpose, heartbeat, self.token)
        if previous:
            owner = _name(previous)
            logger.warning(
                "%s was held by process %s, which is gone: the stale lock is replaced", path, owner
            )
        self._released = threading.Event()
        self._thread: threading.Thread | None = None
        if heartbeat:
            self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
            self._thread.start()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                if self._other_owner():  # whose heartbeat this must not be
                    return
                os.utime(self._descriptor)
            except OSError as error:  # a file system that is away for a while is no reason to stop
                logger.debug("cannot touch %s: %s", self.path, error)

    def check(self) -> None:
        """Raise LostLockError where the lock file bears another owner's name by now."""
        owner = self._other_owner()
        if owner:
            raise LostLockError(
                f"{self.path} was taken over by process {_name(owner)}, because this one had not shown for"
                f" {STALE_AFTER_S:.0f} s that it still ran: it ends here and leaves everything to the other"
            )

    def _other_owner(self) -> dict[str, Any]:
        """Who has taken the lock, {} while it is ours or nobody's. The file is opened anew, because only
        then do network file systems look for what another machine has written."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return {}
        try:
            owner = _read_owner(descriptor)
        except OSError:
            return {}
        finally:
            os.close(descriptor)
        return owner if owner.get("token") != self.token else {}

    def release(self) -> None:
        """Remove the file, unless it is another's by now; does nothing the second time."""
        if self._released.is_set():
            return
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if not self._other_owner():
                self.path.unlink(missing_ok=True)
        except OSError as error:  # it is stale from now on; the error that led here is the one to show
            logger.debug("cannot remove %s: %s", self.path, error)
        os.close(self._descriptor)


def is_held(path: Path) -> bool:
    """Whether the lock file is held: it names an owner and is not stale, as far as can be seen from here.

    A file that names no owner, whatever it is or holds, is no lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would let us wait
        try:
            owner = _read_owner(descriptor)
        finally:
            os.close(descriptor)
        try:
            silence = _seconds_since_heartbeat(path)
        except OSError:  # somebody else's folder, or a full disk
            silence = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if not owner or silence >= STALE_AFTER_S:
        return False
    return owner["host"] != socket.gethostname() or _runs(owner["pid"])


def _runs(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's process
        return True


def _acquire(path: Path, purpose: str, heartbeat: bool, token: str) -> tuple[int, dict[str, Any]]:
    """The open lock file, ours now, and the stale owner that it replaces, {} if there was none."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            ours = _flock(descriptor)
            owner = _read_owner(descriptor)
            if not _same_file(descriptor, path):  # its owner ended and removed it meanwhile
                os.close(descriptor)
                continue
            if ours is False or _may_run(owner, path, kernel_says_gone=bool(ours)):
                raise _taken(path, owner, purpose)
            _write_owner(descriptor, heartbeat, token)
            return descriptor, owner
        except BaseException:
            os.close(descriptor)
            raise


def _flock(descriptor: int) -> bool | None:
    """Whether the kernel granted the lock; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _may_run(owner: dict[str, Any], path: Path, kernel_says_gone: bool) -> bool:
    if not owner:
        return False
    if owner["host"] == socket.gethostname():
        return not kernel_says_gone and owner["pid"] != os.getpid() and psutil.pid_exists(owner["pid"])
    requeued = owner["slurm_job"] == os.environ.get("SLURM_JOB_ID", "") and owner["start"] != _slurm_start()
    return not requeued and not (
        owner.get("heartbeat", True) and _seconds_since_heartbeat(path) >= STALE_AFTER_S
    )


def _seconds_since_heartbeat(path: Path) -> float:
    """Seconds since the file was touched, by the clock of the file system that both machines share."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _read_owner(descriptor: int) -> dict[str, Any]:
    """What `_write_owner` wrote, or {} for a lock just created or cut short."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return owner if owner.keys() >= {"host", "pid", "slurm_job", "start"} else {}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _write_owner(descriptor: int, heartbeat: bool, token: str) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "start": _slurm_start(),
        "heartbeat": heartbeat,
        "token": token,
    }
    text = json.dumps(owner).encode()
    os.pwrite(descriptor, text.ljust(os.fstat(descriptor).st_size), 0)  # not every file system can truncate


def _slurm_start() -> str:
    """How often SLURM has queued this job again."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def _name(owner: dict[str, Any]) -> str:
    return f"{owner['pid']} on {owner['host']}"


def _taken(path: Path, owner: dict[str, Any], purpose: str) -> UserError:
    who = f"process {_name(owner)}" if owner else "another process"
    return UserError(f"{purpose} by {who}; wait for it, or, if it no longer runs, remove {path}")
