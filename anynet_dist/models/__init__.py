"""The networks: blocks, stems and heads by name, AnyNet, RegNet, the zoo, and what each network costs."""

from anynet_dist.models import blocks, heads, listing, stems
from anynet_dist.models.anynet import AnyNet, anynet_from_params, build_anynet, build_regnet
from anynet_dist.models.complexity import (
    Complexity,
    PartComplexity,
    Tally,
    check_resolution,
    network_complexity,
    part_complexities,
)
from anynet_dist.models.convert import convert_state_dict
from anynet_dist.models.memory import TrainingMemory, training_memory
from anynet_dist.models.published import Published, published_top1
from anynet_dist.models.registry import register_block, register_head, register_stem
from anynet_dist.models.regnet import regnet_description, regnet_stages
from anynet_dist.models.spec import HeadSpec, NetworkSpec, StageSpec, StemSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.models.zoo import preset_description, preset_names, preset_resolution
from anynet_dist.system.plugins import load_plugins

__all__ = [
    "AnyNet",
    "Complexity",
    "HeadSpec",
    "NetworkSpec",
    "PartComplexity",
    "Published",
    "StageSpec",
    "StemSpec",
    "Tally",
    "TrainingMemory",
    "anynet_from_params",
    "blocks",
    "build_anynet",
    "build_regnet",
    "check_resolution",
    "convert_state_dict",
    "heads",
    "listing",
    "load_plugins",
    "network_complexity",
    "network_spec",
    "part_complexities",
    "preset_description",
    "preset_names",
    "preset_resolution",
    "published_top1",
    "register_block",
    "register_head",
    "register_stem",
    "regnet_description",
    "regnet_stages",
    "stems",
    "training_memory",
]
