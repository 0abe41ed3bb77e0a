import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anynet_dist.system.errors import UserError
from anynet_dist.system.lock import Lock, LostLockError, is_held

HOLD = """
import signal, sys
from pathlib import Path
from anynet_dist.system.lock import Lock
lock = Lock(Path(sys.argv[1]), "the folder is in use")
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "run.lock"


def hold(lock_file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock_file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def owner(**facts: object) -> str:
    known = {"host": socket.gethostname(), "pid": 1, "slurm_job": None, "start": "0", "heartbeat": True}
    return json.dumps(known | facts)


def test_a_second_owner_is_refused_and_told_who_the_first_is(lock_file: Path) -> None:
    with hold(lock_file) as process:
        try:
            who = f"the folder is in use by process {process.pid} on {socket.gethostname()}"
            with pytest.raises(UserError, match=who):
                Lock(lock_file, "the folder is in use")
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_is_taken_over(
    lock_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hold(lock_file) as process:
        process.send_signal(signal.SIGKILL)
    lock = Lock(lock_file, "in use")
    assert f"was held by process {process.pid} on {socket.gethostname()}, which is gone" in caplog.text
    lock.release()
    assert not lock_file.exists()


def test_a_released_lock_is_free_at_once(lock_file: Path) -> None:
    for _ in range(3):
        lock = Lock(lock_file, "in use")
        assert json.loads(lock_file.read_text())["pid"] == os.getpid()
        lock.release()
        lock.release()


def test_an_owner_on_another_machine_counts_as_gone_after_two_minutes_of_silence(lock_file: Path) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text(owner(host="elsewhere"))
    with pytest.raises(UserError, match="by process 1 on elsewhere"):
        Lock(lock_file, "in use")
    os.utime(lock_file, (time.time() - 130, time.time() - 130))
    Lock(lock_file, "in use").release()


def test_silence_says_nothing_of_an_owner_that_never_heartbeat(lock_file: Path) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text(owner(host="elsewhere", heartbeat=False))
    os.utime(lock_file, (time.time() - 130, time.time() - 130))
    with pytest.raises(UserError, match="by process 1 on elsewhere"):
        Lock(lock_file, "in use")
    threads = threading.active_count()
    silent = Lock(lock_file.with_name("silent.lock"), "in use", heartbeat=False)
    assert threading.active_count() == threads
    silent.release()


def test_an_earlier_start_of_the_same_slurm_job_counts_as_gone_at_once(
    lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text(owner(host="elsewhere", slurm_job="7"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError):
        Lock(lock_file, "in use")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    Lock(lock_file, "in use").release()


def test_an_owner_finds_out_that_another_machine_has_taken_its_lock(lock_file: Path) -> None:
    lock = Lock(lock_file, "in use")
    lock.check()
    taken = owner(host="another", pid=77, token="theirs")
    lock_file.write_text(taken)
    with pytest.raises(LostLockError, match=r"run\.lock was taken over by process 77 on another"):
        lock.check()
    lock.release()
    assert lock_file.read_text() == taken, "it is the other's to remove"


def test_a_longer_owner_of_before_leaves_nothing_behind_its_successor(lock_file: Path) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text(owner(pid=2**22 + 1, slurm_job="9" * 500))
    with Lock(lock_file, "in use") as lock:
        assert json.loads(lock_file.read_text())["token"] == lock.token
        assert is_held(lock_file)


def test_a_lock_cut_short_in_the_writing_is_nobodys(lock_file: Path) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text('{"host": "els')
    Lock(lock_file, "in use").release()


@pytest.mark.parametrize(
    "content",
    [owner(pid=pid) for pid in ("many", None, -1, 0, 10**30, 1.5, [1])]
    + ["", "[]", "3", "null", "\0", "[" * 4096, '{"host": "elsewhere"}', '{"pid": 1}'],
)
def test_a_lock_that_names_no_owner_is_not_held(lock_file: Path, content: str) -> None:
    lock_file.parent.mkdir()
    lock_file.write_text(owner(pid=os.getpid()))
    assert is_held(lock_file)
    lock_file.write_text(content)
    assert not is_held(lock_file)


def test_a_lock_that_is_no_file_is_not_held(lock_file: Path) -> None:
    lock_file.parent.mkdir()
    os.mkfifo(lock_file)
    assert not is_held(lock_file)
    lock_file.unlink()
    lock_file.mkdir()
    assert not is_held(lock_file)
