"""A SLURM cluster on this machine: slurmctld, and two nodes with an address, a name and a disk of their own.

A node is a slurmd in a network and a host-name namespace, with /etc/hosts and a scratch disk that only it
sees, and two GPUs that are none (/dev/null under another name). It needs root. Nothing outside one folder and
one network bridge is touched; both have fixed names, so that a new cluster first removes what an earlier
one left, had it been killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(tempfile.gettempdir(), "anynet-slurm-cluster")
BRIDGE = "anynet-slurm"
NETWORK = "10.213.77"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

CONFIG = """
ClusterName=anynet-test
SlurmctldHost={host}({network}.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=5
SlurmdTimeout=5
SlurmctldTimeout=10
GresTypes=gpu
NodeName=n1 NodeAddr={network}.11 CPUs=8 RealMemory=8000 Gres=gpu:fake:2 State=UNKNOWN
NodeName=n2 NodeAddr={network}.12 CPUs=8 RealMemory=8000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=2-00:00:00 PriorityTier=1 PreemptMode=requeue GraceTime=30
PartitionName=high Nodes=ALL MaxTime=2-00:00:00 PriorityTier=10 PreemptMode=off
"""

# Runs in the namespaces of a node, and becomes its slurmd.
START_NODE = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs -o size=256m tmpfs "$2/scratch"
exec slurmd -f "$2/slurm.conf" -N "$1"
"""


def missing() -> str | None:
    """What is lacking to start a cluster here, None when nothing is."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(lacking)} (make test-slurm installs it)" if lacking else None


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


class ClusterTakenError(Exception):
    """There is one cluster on a machine, and somebody else uses it."""


class Cluster:
    """The running cluster; `close` removes everything."""

    nodes = ("n1", "n2")

    def __init__(self) -> None:
        self.lock_file = Path(f"{ROOT}.lock")
        self.lock = self.lock_file.open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.lock.close()
            raise ClusterTakenError("another test run on this machine has the cluster") from None
        self.root = ROOT
        self.scratch = ROOT / "scratch"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(ROOT / "slurm.conf"),
            "PATH": _path(),
            "OMP_NUM_THREADS": "1",
        }
        self.stop()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, *words: object, check: bool = True, timeout: float = 60) -> str:
        """Run a program on the machine where one logs in; its output, without what it says on errors."""
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _start(self) -> None:
        for folder in ("state", "spool/n1", "spool/n2", "log", "scratch"):
            (ROOT / folder).mkdir(parents=True)
        ROOT.chmod(0o755)
        self._write_files()
        self._start_munge()
        self.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        self.run("ip", "link", "set", BRIDGE, "up")
        self.run("slurmctld", "-f", ROOT / "slurm.conf")
        for number, node in enumerate(self.nodes, start=1):
            self._make_network(number, node)
            self.start_node(node)
        self.wait_for_nodes()

    def _write_files(self) -> None:
        host = socket.gethostname().partition(".")[0]
        (ROOT / "slurm.conf").write_text(CONFIG.format(host=host, network=NETWORK, root=ROOT))
        gpus = "".join(f"NodeName={node} Name=gpu Type=fake File={ROOT}/gpu[0-1]\n" for node in self.nodes)
        (ROOT / "gres.conf").write_text(gpus)
        for number in range(2):
            os.mknod(ROOT / f"gpu{number}", 0o20666, os.makedev(1, 3))
        names = "".join(f"{NETWORK}.1{number} n{number}\n" for number in (1, 2))
        (ROOT / "hosts").write_text(f"127.0.0.1 localhost\n{NETWORK}.1 {host}\n{names}")

    def _start_munge(self) -> None:
        """A munged of our own: it signs what the daemons tell each other."""
        key = ROOT / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "log/munged.log"}
        files |= {"pid-file": "munged.pid", "seed-file": "munge.seed"}
        self.run("munged", "--force", *(f"--{option}={ROOT / name}" for option, name in files.items()))

    def _make_network(self, number: int, node: str) -> None:
        namespace, cable = f"anynet-{node}", f"anynet-{node}"
        self.run("ip", "netns", "add", namespace)
        peer = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
        self.run("ip", "link", "add", cable, *peer)
        self.run("ip", "link", "set", cable, "master", BRIDGE, "up")
        self.run("ip", "-n", namespace, "address", "add", f"{NETWORK}.1{number}/24", "dev", "eth0")
        self.run("ip", "-n", namespace, "link", "set", "eth0", "up")
        self.run("ip", "-n", namespace, "link", "set", "lo", "up")

    def start_node(self, node: str) -> None:
        """Switch a node on; its scratch disk is empty."""
        self.run("ip", "link", "set", f"anynet-{node}", "up")
        inside = ("nsenter", f"--net=/run/netns/anynet-{node}", "unshare", "--uts", "--mount")
        self.run(*inside, "bash", "-c", START_NODE, "bash", node, ROOT)

    def cut_power(self, node: str) -> None:
        """What a node looks like from outside when its power is cut: silence, also on open connections."""
        self.run("ip", "link", "set", f"anynet-{node}", "down")
        self._kill_all_in(node)

    def _kill_all_in(self, node: str) -> None:
        for pid in self.run("ip", "netns", "pids", f"anynet-{node}", check=False).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def wait_for_nodes(self, seconds: float = 30) -> None:
        """Until all nodes take jobs."""

        def idle() -> bool:
            states = self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T", check=False)
            return states.split() == ["idle"] * len(self.nodes)

        wait_until(idle, seconds, lambda: f"the nodes are not idle: {self.run('sinfo', '-N', '-l')}")

    def job(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in shown if "=" in word)

    def wait(self, job: str, log: Path, seconds: float = 120) -> dict[str, str]:
        """Until the job is over. One that is queued again waits two seconds, not SLURM's two minutes."""
        pending_since: float | None = None

        def over() -> bool:
            nonlocal pending_since
            facts = self.job(job)
            if facts["JobState"] != "PENDING" or facts["Restarts"] == "0":
                pending_since = None
            elif pending_since is None:
                pending_since = time.monotonic()
            elif time.monotonic() - pending_since > 2:
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            return facts["JobState"] in OVER

        def shown() -> str:
            return f"job {job} is not over: {self.job(job)}\n{log.read_text() if log.exists() else ''}"

        wait_until(over, seconds, shown)
        return self.job(job)

    def log(self) -> str:
        """The end of what SLURM's daemons have to say, for when something went wrong."""
        return "\n".join(
            f"--- {file.name}\n" + "\n".join(file.read_text().splitlines()[-30:])
            for file in sorted((ROOT / "log").glob("slurm*.log"))
        )

    def stop(self) -> None:
        """Remove the cluster, or what an earlier one has left."""
        for name in ("slurmctld", "munged"):
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                os.kill(int((ROOT / f"{name}.pid").read_text()), 9)
        for node in self.nodes:
            self._kill_all_in(node)
            self.run("ip", "link", "delete", f"anynet-{node}", check=False)
            self.run("ip", "netns", "delete", f"anynet-{node}", check=False)
        self.run("ip", "link", "delete", BRIDGE, check=False)
        shutil.rmtree(ROOT, ignore_errors=True)

    def close(self) -> None:
        """Remove the cluster, and let others have theirs."""
        self.stop()
        self.lock_file.unlink(missing_ok=True)
        self.lock.close()


def wait_until(
    reached: Callable[[], bool], seconds: float, problem: Callable[[], str], every: float = 0.25
) -> None:
    """Ask until the answer is yes; AssertionError with the problem when the time is up."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, problem()
        time.sleep(every)
