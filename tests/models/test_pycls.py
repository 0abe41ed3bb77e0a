"""What a pycls checkpoint says of its network and its images, by the config in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from anynet_dist.models import AnyNet, build_anynet, network_complexity, network_spec
from anynet_dist.models.pretrained import import_network, read_source
from anynet_dist.models.pycls import pycls_images, pycls_network, read_pycls_config
from anynet_dist.system.errors import UserError

ANYNET: dict[str, Any] = {
    "STEM_TYPE": "res_stem_cifar",
    "STEM_W": 8,
    "BLOCK_TYPE": "res_bottleneck_block",
    "DEPTHS": [1, 2],
    "WIDTHS": [16, 32],
    "STRIDES": [1, 2],
    "BOT_MULS": [0.5, 0.5],
    "GROUP_WS": [4, 8],
}


def config(dataset: str = "cifar10", **sections: dict[str, Any]) -> str:
    tree: dict[str, Any] = {"MODEL": {"TYPE": "anynet", "NUM_CLASSES": 3}, "ANYNET": dict(ANYNET)}
    size = 32 if dataset == "cifar10" else 224
    tree["TRAIN"] = {"DATASET": dataset, "IM_SIZE": size}
    tree["TEST"] = {"DATASET": dataset, "IM_SIZE": size * 8 // 7}
    for name, options in sections.items():
        tree[name] = {**tree.get(name, {}), **options}
    return yaml.safe_dump(tree)


def named_by_pycls(network: AnyNet) -> dict[str, Tensor]:
    replacements: dict[str, Any] = {
        r"^stage(\d+)\.(\d+)\.": lambda found: f"s{found[1]}.b{int(found[2]) + 1}.",
        r"\.conv([123])\.": lambda found: f".f.{'abc'[int(found[1]) - 1]}.",
        r"\.bn([123])\.": lambda found: f".f.{'abc'[int(found[1]) - 1]}_bn.",
        r"\.shortcut\.0\.": ".proj.",
        r"\.shortcut\.1\.": ".bn.",
    }
    renamed = {}
    for key, tensor in network.state_dict().items():
        for pattern, replacement in replacements.items():
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


@pytest.fixture
def checkpoint(
    tmp_path: Path, randomise_norms: Callable[[nn.Module], None]
) -> Callable[..., tuple[str, AnyNet]]:
    """Write a checkpoint as pycls does; returns its path and the network in it."""

    def write(text: str, **facts: Any) -> tuple[str, AnyNet]:
        network = build_anynet(**pycls_network(read_pycls_config(config()))).eval()
        randomise_norms(network)
        state = named_by_pycls(network)
        whole = {"epoch": 9, "test_err": 25.0, "ema_err": 24.0, "model_state": state, "ema_state": state}
        torch.save({**whole, "optimizer_state": {"state": {}}, "cfg": text, **facts}, tmp_path / "model.pyth")
        return str(tmp_path / "model.pyth"), network

    return write


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize(
    ("dataset", "loader", "channels", "mean"),
    [
        ("cifar10", "pytorch", "rgb", (125.3 / 255, 123.0 / 255, 113.9 / 255)),
        ("imagenet", "pytorch", "bgr", (0.485, 0.456, 0.406)),
        ("imagenet", "ffcv", "rgb", (123 / 255, 116 / 255, 103 / 255)),
    ],
)
def test_the_loader_decides_the_order_of_channels_and_the_normalisation(
    dataset: str,
    loader: str,
    channels: str,
    mean: tuple[float, ...],
    checkpoint: Callable[..., tuple[str, AnyNet]],
) -> None:
    path, theirs = checkpoint(config(dataset, DATA_LOADER={"MODE": loader}))
    source = read_source(path)
    assert (source.channels, source.mean) == (channels, mean)
    assert source.resolution == (32 if dataset == "cifar10" else 224)
    assert source.crop_ratio == (None if dataset == "cifar10" else 224 / 256)
    assert source.description is not None
    ours = import_network(source, source.description).network
    images = torch.randn(2, 3, 33, 33)
    torch.testing.assert_close(
        outputs(ours, images), outputs(theirs, images.flip(1) if channels == "bgr" else images)
    )


def test_a_loader_that_pycls_does_not_have_is_asked_for(
    checkpoint: Callable[..., tuple[str, AnyNet]],
) -> None:
    path, _ = checkpoint(config("flowers"))
    source = read_source(path)
    assert source.description is not None
    with pytest.raises(UserError, match=r"model\.pyth: it does not state .* RGB or BGR .* --rgb or --bgr"):
        import_network(source, source.description)


def test_other_strides_than_the_configs_are_refused(checkpoint: Callable[..., tuple[str, AnyNet]]) -> None:
    source = read_source(checkpoint(config())[0])
    assert source.description is not None
    with pytest.raises(UserError, match=r"something else: its strides are \[1, 2\], the model's \[2, 2\]"):
        import_network(source, {**source.description, "strides": 2})
    with pytest.raises(UserError, match=r"its stem is conv3x3_s1, the model's conv3x3_s2"):
        import_network(source, {**source.description, "stem": "conv3x3_s2"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"BN": {"EPS": 1e-3}}, r"BN\.EPS is 0\.001: networks here compute with 1e-05 only"),
        ({"MODEL": {"ACTIVATION_FUN": "silu"}}, r"MODEL\.ACTIVATION_FUN is silu"),
        ({"ANYNET": {"HEAD_W": 64}}, r"ANYNET\.HEAD_W is 64"),
        (
            {"ANYNET": {"BLOCK_TYPE": "res_bottleneck_linear_block"}},
            r"ANYNET\.BLOCK_TYPE is 'res_bottleneck_lin",
        ),
        ({"MODEL": {"TYPE": "effnet"}}, r"MODEL\.TYPE is 'effnet', which is no network of this space"),
        ({"MODEL": {"TYPE": "vit"}}, r"MODEL\.TYPE is 'vit'"),
        ({"ANYNET": {"STRIDES": [2]}}, r"one value per stage .*DEPTHS 2, WIDTHS 2, STRIDES 1"),
        ({"ANYNET": {"BOT_MULS": [0, 1]}}, r"a bottleneck multiplier must be above 0"),
        ({"ANYNET": {"DEPTHS": "many"}}, r"ANYNET\.DEPTHS must be a list of numbers, not 'many'"),
        ({"TRAIN": {"IM_SIZE": "large"}}, r"TRAIN\.IM_SIZE must be of the kind of 224, not 'large'"),
        (
            {"MODEL": {"TYPE": "resnet", "DEPTH": 50}, "TRAIN": {"DATASET": "imagenet"}},
            r"RESNET\.STRIDE_1X1 is true, as by default",
        ),
        ({"MODEL": {"TYPE": "resnet", "DEPTH": 57}}, r"a ResNet for CIFAR has 6n \+ 2 layers"),
    ],
)
def test_what_no_network_here_computes_is_refused(
    sections: dict[str, Any], message: str, checkpoint: Callable[..., tuple[str, AnyNet]]
) -> None:
    path, _ = checkpoint(config(**sections))
    with pytest.raises(UserError, match=rf"model\.pyth: .*{message}"):
        read_source(path)


REGNET = {"DEPTH": 22, "W0": 24, "WA": 24.48, "WM": 2.54, "GROUP_W": 16}


@pytest.mark.parametrize(
    ("text", "preset", "params"),
    [
        ({"MODEL": {"TYPE": "regnet"}, "REGNET": REGNET}, "regnetx_400mf", 5_157_512),
        (
            {
                "MODEL": {"TYPE": "regnet"},
                "REGNET": {"SE_ON": True, "DEPTH": 16, "W0": 48, "WA": 27.89, "WM": 2.09, "GROUP_W": 8},
            },
            "regnety_400mf",
            4_344_144,
        ),
        (
            {"MODEL": {"TYPE": "resnet", "DEPTH": 50}, "RESNET": {"STRIDE_1X1": False}},
            "resnet50",
            25_557_032,
        ),
        (
            {
                "MODEL": {"TYPE": "resnet", "DEPTH": 101},
                "RESNET": {"STRIDE_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
            },
            "resnext101_32x4d",
            44_177_704,
        ),
        (
            {
                "MODEL": {"TYPE": "anynet"},
                "ANYNET": {
                    "STEM_TYPE": "res_stem_in",
                    "STEM_W": 64,
                    "DEPTHS": [3, 4, 6, 3],
                    "WIDTHS": [256, 512, 1024, 2048],
                    "STRIDES": [1, 2, 2, 2],
                    "BOT_MULS": [0.25] * 4,
                    "GROUP_WS": [64, 128, 256, 512],
                },
            },
            "resnet50",
            25_557_032,
        ),
        (
            {"MODEL": {"TYPE": "resnet", "DEPTH": 56, "NUM_CLASSES": 10}, "TRAIN": {"DATASET": "cifar10"}},
            "resnet56",
            855_770,
        ),
        (
            {
                "MODEL": {"TYPE": "anynet", "NUM_CLASSES": 10},
                "ANYNET": {
                    "STEM_TYPE": "res_stem_cifar",
                    "STEM_W": 16,
                    "BLOCK_TYPE": "vanilla_block",
                    "DEPTHS": [9, 9, 9],
                    "WIDTHS": [16, 32, 64],
                    "STRIDES": [1, 2, 2],
                },
            },
            None,
            853_018,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_published_networks_have_their_parameters(
    text: dict[str, Any], preset: str | None, params: int
) -> None:
    tree: dict[str, Any] = {"TRAIN": {"DATASET": "imagenet"}, **text}
    tree["MODEL"] = {"NUM_CLASSES": 1000, **tree["MODEL"]}
    model = pycls_network(read_pycls_config(yaml.safe_dump(tree)))
    assert model.get("preset") == preset
    assert network_complexity(network_spec(**model)).params == params


def test_numbers_and_tuples_as_yacs_writes_them() -> None:
    read = read_pycls_config(
        "OPTIM: {WEIGHT_DECAY: 5e-5}\nANYNET: {DEPTHS: !!python/tuple [1, 2]}\nX: {Y: '(1, 2)'}"
    )
    assert (read.values["OPTIM.WEIGHT_DECAY"], read.values["ANYNET.DEPTHS"]) == (5e-5, [1, 2])
    assert read.given["X.Y"] == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML that can be read"),
        ("3", "it holds no options"),
        ("X: !!python/object/apply:os.system [true]", "no YAML that can be read"),
        ("NAME: a\nSETUP: {NUM_CONFIGS: 3}", "describes a sweep"),
    ],
)
def test_what_is_no_config_of_a_run(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pycls_config(text)


def test_images_taken_whole_have_no_crop() -> None:
    images = pycls_images(read_pycls_config(config()))
    assert (images.resolution, images.crop_ratio) == (32, None)
    assert images.std == pytest.approx((63.0 / 255, 62.1 / 255, 66.7 / 255))
