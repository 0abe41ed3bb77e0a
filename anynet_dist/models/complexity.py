"""Parameters, multiply-adds and activations of a network, counted from its description without building it.

Counting follows pycls: `flops` are the multiply-adds of convolutions and linear layers plus their bias
additions (batch norm, ReLU, pooling count nothing); `acts` are the output elements of convolutions, linear
layers and max-pooling (Radosavovic et al., Designing Network Design Spaces, 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anynet_dist.models.blurpool import is_blurred
from anynet_dist.models.limits import check_side
from anynet_dist.models.measure import counts_itself, measure_part
from anynet_dist.models.registry import Part, get_block, get_head, get_stem, wanted_options
from anynet_dist.models.spec import NetworkSpec, StageSpec
from anynet_dist.system.errors import UserError

Resolution = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Complexity:
    """What a network, or one part of it, costs for one image."""

    params: int
    """Learnable parameters."""
    flops: int | None
    """Multiply-adds; None where a part does what cannot be counted."""
    acts: int | None
    """Activations; None where `flops` is."""


@dataclass(frozen=True, slots=True)
class PartComplexity(Complexity):
    """One part's cost and what comes out of it."""

    name: str
    """`stem`, `stage1`, ..., `head`."""
    channels: int
    height: int
    width: int
    receptive_field: int | None
    """Side of the square of input pixels that one output position sees (squeeze-excitation left aside); None
    from the first part on that does not count itself."""


class Tally:
    """A feature map followed through layers in thought: its shape now, and the cost of the layers so far.

    `knows_field` and `knows_cost` tell whether `receptive_field`, and `flops` and `acts`, hold all of them.
    """

    __slots__ = (
        "acts",
        "blurpool",
        "channels",
        "flops",
        "height",
        "knows_cost",
        "knows_field",
        "params",
        "receptive_field",
        "step",
        "width",
    )

    def __init__(
        self, channels: int, height: int, width: int, receptive_field: int = 1, step: int = 1
    ) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.receptive_field = receptive_field
        self.step = step  # input pixels between neighbouring positions
        self.blurpool = False
        self.params = self.flops = self.acts = 0
        self.knows_field = self.knows_cost = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the feature map."""
        return self.channels, self.height, self.width

    def conv(
        self, width_out: int, kernel: int, stride: int = 1, groups: int = 1, *, bias: bool = False
    ) -> None:
        """A convolution padded by kernel // 2."""
        if self.channels % groups or width_out % groups:
            raise UserError(
                f"a {kernel}x{kernel} convolution from {self.channels} to {width_out} channels cannot have "
                f"{groups} groups: both widths must be divisible by the number of groups"
            )
        if self.blurpool and is_blurred(self.channels, stride):
            self._slide(3, 1, 1)
            self.flops += 9 * self.channels * self.height * self.width
            self.acts += self.channels * self.height * self.width
        self._slide(kernel, stride, kernel // 2)
        weights = kernel * kernel * (self.channels // groups) * width_out + bias * width_out
        self.channels = width_out
        self.params += weights
        self.flops += weights * self.height * self.width
        self.acts += width_out * self.height * self.width

    def norm(self) -> None:
        """A batch norm: weight and bias."""
        self.params += 2 * self.channels

    def max_pool(self, kernel: int, stride: int, padding: int = 0) -> None:
        """A max-pooling layer."""
        self._slide(kernel, stride, padding)
        self.acts += self.channels * self.height * self.width

    def global_pool(self) -> None:
        """An average over all positions."""
        self.height = self.width = 1

    def linear(self, width_out: int) -> None:
        """A linear layer with bias, on a feature map of one position."""
        self.conv(width_out, 1, bias=True)

    def fork(self) -> Tally:
        """A branch that starts at this feature map and counts its own layers."""
        branch = Tally(self.channels, self.height, self.width, self.receptive_field, self.step)
        branch.blurpool = self.blurpool
        return branch

    def merge(self, branch: Tally) -> None:
        """Bring back the branch of a residual or of a gate: its cost is added, the shape stays."""
        self._add(branch)
        self.receptive_field = max(self.receptive_field, branch.receptive_field)

    def concatenate(self, branches: Sequence[Tally]) -> None:
        """Go on with the concatenation of the branches' channels."""
        last = branches[-1]
        self.channels = sum(branch.channels for branch in branches)
        self.height, self.width, self.step = last.height, last.width, last.step
        for branch in branches:
            self.merge(branch)

    def repeat(self, branch: Tally, times: int) -> None:
        """Go through layers that change neither shape nor step `times` times; `branch` went once."""
        self._add(branch, times)
        self.receptive_field += times * (branch.receptive_field - self.receptive_field)

    def measure(self, part: Part, *arguments: int, **options: Any) -> None:
        """Go through a part that cannot count itself: it is built and run on one image, watched by hooks.

        Its part of the receptive field stays unknown, and so do flops and acts where it multiplies
        matrices elsewhere than in convolutions and linear layers. Raises UserError where it cannot run.
        """
        try:
            measured = measure_part(part, self.shape, arguments, options, self.blurpool)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{part.__name__} does not fit here: {error}") from error
        self.params += measured.params
        self.knows_field = False
        if measured.flops is None or measured.acts is None:
            self.knows_cost = False
        else:
            self.flops += measured.flops
            self.acts += measured.acts
        self.channels, self.height, self.width = measured.shape

    def _slide(self, kernel: int, stride: int, padding: int) -> None:
        self.height = (self.height + 2 * padding - kernel) // stride + 1
        self.width = (self.width + 2 * padding - kernel) // stride + 1
        self.receptive_field += (kernel - 1) * self.step
        self.step *= stride

    def _add(self, other: Tally, times: int = 1) -> None:
        self.params += times * other.params
        self.flops += times * other.flops
        self.acts += times * other.acts
        self.knows_field &= other.knows_field
        self.knows_cost &= other.knows_cost


def network_complexity(spec: NetworkSpec, resolution: Resolution = 224) -> Complexity:
    """Params, flops and acts of the network for one image of `resolution` (side, or height and width)."""
    tally = _image(spec, resolution)
    for _ in _walk(spec, tally):
        pass
    known = tally.knows_cost
    return Complexity(tally.params, tally.flops if known else None, tally.acts if known else None)


def part_complexities(spec: NetworkSpec, resolution: Resolution = 224) -> list[PartComplexity]:
    """Cost and output of the stem, each stage and the head."""
    tally = _image(spec, resolution)
    parts: list[PartComplexity] = []
    params = flops = acts = 0
    for name in _walk(spec, tally):
        known = tally.knows_cost
        channels, height, width = tally.shape
        parts.append(
            PartComplexity(
                name=name,
                params=tally.params - params,
                flops=tally.flops - flops if known else None,
                acts=tally.acts - acts if known else None,
                channels=channels,
                height=height,
                width=width,
                receptive_field=tally.receptive_field if tally.knows_field else None,
            )
        )
        params, flops, acts = tally.params, tally.flops, tally.acts
        tally.knows_cost = True  # of the next part
    return parts


def check_resolution(spec: NetworkSpec, resolution: Resolution) -> None:
    """Refuse images too small for the network.

    Raises UserError where a stage with stride s receives a feature map smaller than s x s, or nothing is left
    of it.
    """
    check_side(max(_sides(resolution)))
    problem = _resolution_problem(spec, resolution)
    if problem is None:
        return
    start = resolution if isinstance(resolution, int) else max(resolution)
    enough = next(
        (side for side in range(max(start, 0) + 1, 4097) if not _resolution_problem(spec, side)), None
    )
    larger = f"images of at least {enough} pixels, " if enough else ""
    raise UserError(
        f"resolution {resolution} is too small: {problem}; use {larger}fewer stages or smaller strides"
    )


def _resolution_problem(spec: NetworkSpec, resolution: Resolution) -> str | None:
    try:
        return _starved_part(spec, resolution)
    except UserError as error:  # a measured part that cannot run at this resolution
        return str(error)


def _starved_part(spec: NetworkSpec, resolution: Resolution) -> str | None:
    tally = _image(spec, resolution)
    strides = {f"stage{number}": stage.stride for number, stage in enumerate(spec.stages, 1)}
    height, width = tally.height, tally.width
    for name in _walk(spec, tally):
        stride = strides.get(name, 1)
        if min(height, width) < stride:
            return f"{name} (stride {stride}) receives a {height}x{width} feature map"
        if min(tally.height, tally.width) < 1:
            return f"nothing is left of the {height}x{width} feature map after {name}"
        height, width = tally.height, tally.width
    return None


def _image(spec: NetworkSpec, resolution: Resolution) -> Tally:
    height, width = _sides(resolution)
    if min(height, width) < 1:
        raise UserError(f"a resolution must be at least 1, not {resolution}")
    check_side(max(height, width))
    tally = Tally(spec.stem.width_in, height, width)
    tally.blurpool = spec.blurpool
    return tally


def _sides(resolution: Resolution) -> tuple[int, int]:
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def _walk(spec: NetworkSpec, tally: Tally) -> Iterator[str]:
    """Take the tally through stem, stages and head; yields each part's name when it is behind."""
    _pass(tally, get_stem(spec.stem.type), spec.stem.width)
    yield "stem"
    for number, stage in enumerate(spec.stages, 1):
        try:
            _pass_stage(tally, stage)
        except UserError as error:
            where = f"stage {number} (block_type '{stage.block_type}', num_channels {stage.width})"
            raise UserError(f"{where}: {error}") from error
        yield f"stage{number}"
    _pass(tally, get_head(spec.head.type), options=spec.head.options)
    yield "head"


def _pass_stage(tally: Tally, stage: StageSpec) -> None:
    block = get_block(stage.block_type)
    _pass(tally, block, stage.width, stage.stride, options=stage.options)
    for done in range(1, stage.depth):
        following = tally.fork()
        _pass(following, block, stage.width, 1, options=stage.options)
        if following.shape == tally.shape:
            # All the blocks that follow are alike: count one of them.
            tally.repeat(following, stage.depth - done)
            return
        _pass(tally, block, stage.width, 1, options=stage.options)


def _pass(tally: Tally, part: Part, *arguments: int, options: Mapping[str, Any] | None = None) -> None:
    wanted = wanted_options(part, options or {})
    if counts_itself(part):
        count: Any = part.complexity  # type: ignore[attr-defined]
        count(tally, *arguments, **wanted)
    else:
        tally.measure(part, *arguments, **wanted)
