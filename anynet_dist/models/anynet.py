"""AnyNet: stem, stages and head, built from their description."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anynet_dist.models.blurpool import add_blurpool
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.initialise import initialise_our_parts, zero_residual_norms
from anynet_dist.models.limits import check_memory, check_most
from anynet_dist.models.listing import rename_listing_keys
from anynet_dist.models.registry import get_block, get_head, get_stem, wanted_options
from anynet_dist.models.spec import NetworkSpec, StageSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.system.errors import UserError, unknown_name


def _unknown_images(image: object) -> Tensor:
    raise UserError("this network was not loaded from a file, so it is not known how its images are prepared")


class AnyNet(nn.Module):
    """A convolutional network of the design space: `stem`, `stage1`, `stage2`, ..., `head`."""

    classes: tuple[str, ...] = ()
    """Names of the outputs, of a trained network that was loaded."""
    preprocess: Callable[[Any], Tensor] = staticmethod(_unknown_images)
    """From an image to the network's input (3, R, R), of a trained network that was loaded."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = get_stem(spec.stem.type)(spec.stem.width_in, spec.stem.width)
        width = spec.stem.width
        for number, stage in enumerate(spec.stages, 1):
            self.add_module(f"stage{number}", _build_stage(width, stage))
            width = stage.width
        head = get_head(spec.head.type)
        self.head = head(width, **wanted_options(head, spec.head.options))
        if spec.init == "pycls":
            initialise_our_parts(self.parts())
        if spec.zero_init_residual:
            zero_residual_norms(self)
        if spec.blurpool:
            add_blurpool(self)

    def parts(self) -> Iterator[nn.Module]:
        """The stem, each block and the head."""
        yield self.stem
        for number in range(1, len(self.spec.stages) + 1):
            yield from self.get_submodule(f"stage{number}").children()
        yield self.head

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes), or what the head makes of the last feature map."""
        for part in self.children():
            x = part(x)
        return x


def _build_stage(width_in: int, stage: StageSpec) -> nn.Sequential:
    block = get_block(stage.block_type)
    options = wanted_options(block, stage.options)
    first = block(width_in, stage.width, stage.stride, **options)
    following = [block(stage.width, stage.width, 1, **options) for _ in range(1, stage.depth)]
    return nn.Sequential(first, *following)


def build_anynet(**description: Any) -> AnyNet:
    """The network that the arguments of `network_spec` describe.

    Raises UserError where `network_spec` does, and where its weights are larger than this machine's memory.
    """
    spec = network_spec(**description)
    if torch.get_default_device().type == "cpu":
        check_memory(network_complexity(spec).params)
    return AnyNet(spec)


def build_regnet(
    *,
    w0: int,
    wa: float,
    wm: float,
    depth: int,
    group_width: int,
    bottleneck_ratio: float = 1.0,
    se_ratio: float = 0.0,
    stem_width: int = 32,
    **description: Any,
) -> AnyNet:
    """The RegNet of these parameters: RegNetX, or RegNetY with `se_ratio` 0.25.

    `description` are other arguments of `network_spec`, such as num_classes, stem and strides.

    Raises UserError where `build_anynet` does.
    """
    regnet = {
        "w0": w0,
        "wa": wa,
        "wm": wm,
        "depth": depth,
        "group_width": group_width,
        "bottleneck_ratio": bottleneck_ratio,
        "se_ratio": se_ratio,
        "stem_width": stem_width,
    }
    return build_anynet(regnet=regnet, **description)


LISTING_KEYS = (
    "block_type",
    "num_stages",
    "num_blocks_per_stage",
    "num_channels",
    "bottleneck_ratio",
    "group_width",
)
LISTING_BLOCKS = {name: f"listing_{name}" for name in ("bottleneck", "vgg", "inception")}


def anynet_from_params(params: Mapping[str, Any], num_classes: int = 10) -> AnyNet:
    """The design document's listed network from its `params` dictionary, exactly as listed.

    Parameters and buffers have the listing's order, so that the same random seed gives the same weights, and
    `load_state_dict` takes the listing's own names (stem.0, layer1, head.2) as well as ours.

    Raises UserError where a key is missing or unknown, or `network_spec` refuses a value.
    """
    for key in params:
        if key not in LISTING_KEYS:
            raise unknown_name("key", key, LISTING_KEYS)
    missing = [key for key in LISTING_KEYS if key not in params]
    if missing:
        raise UserError(f"params lacks {', '.join(missing)}")
    if params["block_type"] not in LISTING_BLOCKS:
        raise unknown_name("block_type", params["block_type"], LISTING_BLOCKS)
    check_most("num_stages", "num_stages", params["num_stages"])
    block_type = LISTING_BLOCKS[params["block_type"]]
    # The dictionary always holds ratio and groups; the listing's VGG and inception blocks have neither.
    unused = () if block_type == "listing_bottleneck" else ("bottleneck_ratio", "group_width")
    description = {key: value for key, value in params.items() if key not in unused}
    description["block_type"] = block_type
    description["strides"] = [1] + [2] * (params["num_stages"] - 1)
    network = build_anynet(**description, stem="conv3x3_s1", num_classes=num_classes)
    network.register_load_state_dict_pre_hook(rename_listing_keys)
    return network
