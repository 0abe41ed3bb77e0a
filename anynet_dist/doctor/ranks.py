"""Checks of all ranks together: that they meet, add up, how fast, and that they agree."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from anynet_dist.doctor.findings import Finding, ok, problem, warning
from anynet_dist.system import distributed
from anynet_dist.system.environment import git_commit, package_versions

ROUNDS = 5
CLOCKS_DIFFER_S, CLOCKS_FAR_APART_S = 1.0, 30.0
SLOW_BYTES_S = 1e8


class Meeting:
    """All ranks, met; a context that takes leave at its end."""

    def __init__(self, cpu: bool, timeout_s: float) -> None:
        self.gpu = not cpu and torch.cuda.is_available()
        self.timeout = timedelta(seconds=timeout_s)
        self.device = torch.device("cuda", distributed.local_rank()) if self.gpu else torch.device("cpu")

    def __enter__(self) -> Meeting:
        if self.gpu:
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if self.gpu else "gloo", timeout=self.timeout)
        return self

    def __exit__(self, *error: object) -> None:
        dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, on every rank."""
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values


def describe_failure(error: Exception, timeout_s: float) -> Finding:
    """The finding for ranks that did not meet."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return problem(
        "ranks",
        f"they did not meet at {where} within {timeout_s:.0f} s: {first_line}",
        "start all of them, with a name of the first machine that the others can reach and a port that no"
        " firewall closes; NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME name the network interface",
    )


def check_together(meeting: Meeting) -> Iterator[Finding]:
    """All checks among the ranks; to be called on each of them."""
    hosts = meeting.gather(socket.gethostname())
    machines = sorted(set(hosts))
    backend = dist.get_backend()
    yield ok("ranks", f"{len(hosts)} met by {backend} on {len(machines)} machines: {', '.join(machines)}")
    yield from check_gpu_shared(meeting, hosts)
    yield from check_agreement(meeting, hosts)
    yield from check_clocks(meeting)
    yield from check_all_reduce(meeting)


def check_gpu_shared(meeting: Meeting, hosts: list[str]) -> Iterator[Finding]:
    """Whether each rank has a GPU of its own, or none of them has one."""
    mine = str(torch.cuda.get_device_properties(meeting.device).uuid) if meeting.gpu else None
    taken = list(zip(hosts, meeting.gather(mine), strict=True))
    twice = {pair for pair in taken if pair[1] and taken.count(pair) > 1}
    if twice:
        where = ", ".join(sorted({host for host, _ in twice}))
        yield problem(
            "ranks", f"several ranks share a GPU on {where}", "as many processes as GPUs on each machine"
        )
    without = sum(gpu is None for _, gpu in taken)
    if 0 < without < len(taken):
        yield problem(
            "ranks", f"{without} of {len(taken)} ranks have no GPU", "the same GPUs on each machine"
        )


def check_agreement(meeting: Meeting, hosts: list[str]) -> Iterator[Finding]:
    """Whether all ranks run the same code."""
    facts = meeting.gather({**package_versions(), "commit": git_commit()})
    for name in sorted({name for each in facts for name in each}):
        values = {str(each.get(name, "none")): host for each, host in zip(facts, hosts, strict=True)}
        if len(values) > 1:
            differing = ", ".join(f"{value} on {host}" for value, host in sorted(values.items()))
            yield problem("ranks", f"{name} differs: {differing}", "one environment for all machines")


def check_clocks(meeting: Meeting) -> Iterator[Finding]:
    """How far apart the clocks are: the smallest spread of several rounds, each after a barrier."""
    spreads = []
    for _ in range(ROUNDS):
        dist.barrier()
        times = meeting.gather(time.time())
        spreads.append(max(times) - min(times))
    apart = min(spreads)
    text = f"clocks at most {apart:.3f} s apart"
    if apart > CLOCKS_DIFFER_S:
        level = problem if apart > CLOCKS_FAR_APART_S else warning
        yield level("clocks", text, "time synchronisation (NTP, chrony): logs and locks go by the clock")
    else:
        yield ok("clocks", text)


def check_all_reduce(meeting: Meeting) -> Iterator[Finding]:
    """Whether an all-reduce adds up, and its speed.

    Bus bandwidth as nccl-tests define it: 2 (N - 1) / N x bytes / seconds, which does not depend on N.
    """
    world = dist.get_world_size()
    elements = (64 if meeting.gpu else 4) * 2**20
    values = torch.full((elements,), float(dist.get_rank() + 1), device=meeting.device)
    dist.all_reduce(values)
    wanted = world * (world + 1) / 2
    right = meeting.gather(bool((values == wanted).all()))
    if not all(right):
        wrong = [rank for rank, fine in enumerate(right) if not fine]
        yield problem("all-reduce", f"wrong sums on ranks {wrong}", "take these machines out of use")
        return
    seconds = min(_timed_all_reduce(values) for _ in range(ROUNDS))
    slowest = max(meeting.gather(seconds))
    bandwidth = 2 * (world - 1) / world * values.nbytes / slowest
    size, speed = f"{values.nbytes / 2**20:.0f} MiB", f"{bandwidth / 1e9:.2f} GB/s bus bandwidth"
    text = f"{size} in {1000 * slowest:.1f} ms: {speed}"
    if bandwidth < SLOW_BYTES_S:
        yield warning(
            "all-reduce", text, "a faster network interface: NCCL_DEBUG=INFO shows which one is used"
        )
    else:
        yield ok("all-reduce", text)


def _timed_all_reduce(values: torch.Tensor) -> float:
    values.fill_(1)
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
