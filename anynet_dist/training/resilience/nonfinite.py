"""Steps whose loss or gradients are not finite: left out of the weights, counted, and shown to the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from anynet_dist.runs.progress import Progress
from anynet_dist.system import distributed
from anynet_dist.system.errors import RunError
from anynet_dist.system.files import atomic_path

logger = logging.getLogger(__name__)

Replay = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class NotFiniteError(RunError):
    """The numbers of a run have gone wrong; the checkpoints are as they were."""


class BadStepCounts(NamedTuple):
    """What a rank has seen since it was last asked."""

    longest: int
    """Most bad steps in a row, those before the last question included."""
    new: int
    """Bad steps."""
    age: int
    """Steps since the first of them, itself included; 0 when there was none."""


class BadSteps:
    """Watches loss and gradients on the device, so that the host need not wait for it at each step.

    The optimizer's fused kernels leave out a step by a flag on the device, which a gradient scaler sets for
    overflows in fp16; here it is set when the norm of the gradients is not finite. That norm is the same on
    all ranks. Where a scaler is at work, which leaves out steps on its own, only the loss is watched.
    """

    def __init__(self, device: torch.device, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.skips = all(group.get("fused") for group in optimizer.param_groups)
        self.bad_loss = torch.zeros((), dtype=torch.bool, device=device)
        self.bad_gradients = torch.zeros((), dtype=torch.bool, device=device)
        self.in_a_row, self.longest, self.new, self.age = torch.zeros(4, dtype=torch.int64, device=device)
        if self.skips and isinstance(optimizer, torch.optim.SGD):
            _start_momentum(optimizer)

    def watch_loss(self, loss: Tensor) -> None:
        """Look at the loss of a micro-batch."""
        self.bad_loss = self.bad_loss | ~torch.isfinite(loss.detach())

    def watch_gradients(self, norm: Tensor) -> None:
        """Look at the norm of a step's gradients, before the optimizer uses them."""
        self.bad_gradients = ~torch.isfinite(norm.detach())
        if self.skips:
            self.optimizer.found_inf = self.bad_gradients.float()  # type: ignore[attr-defined]

    def count_step(self) -> None:
        """After a step."""
        bad = (self.bad_loss | self.bad_gradients).long()
        self.bad_loss = torch.zeros_like(self.bad_loss)
        self.in_a_row = (self.in_a_row + 1) * bad
        self.longest = torch.maximum(self.longest, self.in_a_row)
        self.new = self.new + bad
        self.age = torch.where(self.new > 0, self.age + 1, self.age)

    def read(self) -> BadStepCounts:
        """The counts since the last reading. Waits for the device."""
        longest, new, age = torch.stack([self.longest, self.new, self.age]).tolist()
        self.longest = self.in_a_row
        self.new, self.age = torch.zeros_like(self.new), torch.zeros_like(self.age)
        return BadStepCounts(longest, new, age)


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Let the momentum start at zero, which is what it is before the first step.

    Torch makes it in the first step, and leaves it unset when that step is left out.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar on their device."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def is_finite(network: nn.Module) -> bool:
    """Whether all weights and batch-norm statistics are finite. Waits for the device."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


class NonFiniteGuard:
    """Ends a run, on all ranks together, whose numbers have gone wrong for good."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        collect: Callable[[], None],
        allowed: int,
        folder: Path,
        replay: Replay,
    ) -> None:
        """`collect` brings `networks` up to date (see ddp.Engine); `allowed` is train.max_bad_steps;
        `replay(n)` yields this rank's micro-batches of the n-th last step, which are written to `folder` for
        the user to look at."""
        self.networks, self.collect = networks, collect
        self.allowed, self.folder, self.replay = allowed, folder, replay

    def damaged(self) -> bool:
        """Whether weights or batch-norm statistics of a network are not finite; called on every rank.

        Waits for the device.
        """
        self.collect()
        return not all(is_finite(network) for network in self.networks.values())

    def check(self, counts: BadStepCounts, damaged: bool, progress: Progress) -> None:
        """Raise NotFiniteError after too many bad steps or one that damaged a network; all as agreed by the
        ranks."""
        back = min(max(counts.longest, counts.age), progress.step_in_epoch)
        first = progress.step - back + 1
        if counts.longest <= self.allowed and not damaged:
            logger.warning("%d steps from step %d on were not finite and are left out", counts.new, first)
            return
        self._dump(back)
        rows = "a step was" if counts.longest == 1 else f"{counts.longest} steps in a row were"
        what = rows if counts.longest > self.allowed else "weights or batch-norm statistics were"
        raise NotFiniteError(
            f"{what} not finite, from step {first} (epoch {progress.epoch + 1}) on: lower optim.lr,"
            " lengthen schedule.warmup_epochs or set train.clip_grad_norm. The images of that step are in"
            f" {self.folder}; the checkpoints are from before it"
        )

    def _dump(self, back: int) -> None:
        file = self.folder / f"rank_{distributed.rank()}.safetensors"
        file.parent.mkdir(exist_ok=True)
        dump_batches(file, self.networks[""], self.replay(back))


@torch.no_grad()
def dump_batches(file: Path, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write images (B, 3, R, R) as the network gets them, labels and its logits in training mode, one set
    a micro-batch."""
    tensors: dict[str, Tensor] = {}
    for number, (images, labels) in enumerate(batches):
        named = {"images": images, "labels": labels, "logits": network(images)}
        tensors |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in named.items()}
    with atomic_path(file) as temporary:
        temporary.write_bytes(save(tensors))
