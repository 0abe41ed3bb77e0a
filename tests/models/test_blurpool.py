"""Networks that blur before they stride, against FFCV's ImageNet script written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18, resnet50

from anynet_dist.config import load_config
from anynet_dist.config.schema import Config, DataConfig
from anynet_dist.models import AnyNet, network_complexity, network_spec, part_complexities
from anynet_dist.models.anynet import build_anynet
from anynet_dist.models.pretrained import import_network, read_source
from anynet_dist.system.errors import UserError
from anynet_dist.training.build import model_arguments
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import build_schedule, set_learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "imagenet"
RAMPS = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}


class TheirBlur(nn.Module):
    """The names and the computation of the published script's module."""

    blur_filter: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        self.register_buffer("blur_filter", kernel.repeat(conv.in_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        blurred = nn.functional.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels)
        return self.conv(blurred)


def blur_theirs(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(module, name, TheirBlur(child))
        else:
            blur_theirs(child)
    return module


def recipe(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / name, list(overrides)).config


@pytest.mark.slow
@pytest.mark.parametrize(("name", "theirs"), [("resnet18", resnet18), ("resnet50", resnet50)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_the_script_give_its_outputs(name: str, theirs: Any, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = blur_theirs(theirs(num_classes=7)).eval()
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "final_weights.pt")
    imported = import_network(read_source(str(tmp_path / "final_weights.pt")), {"preset": name})
    assert imported.model["blurpool"] is True
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(imported.network.eval()(images), network(images))
        plain = build_anynet(**{**imported.model, "blurpool": False}).eval()
        plain.load_state_dict(imported.network.state_dict())  # the same names, another network
        assert not torch.allclose(plain(images), network(images))


def test_weights_that_were_blurred_otherwise_or_must_not_be_are_refused(tmp_path: Path) -> None:
    network = blur_theirs(resnet18(num_classes=7))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with pytest.raises(UserError, match="blurs before striding"):
        import_network(read_source(str(tmp_path / "a.pt")), {"preset": "resnet18", "blurpool": False})
    network.get_buffer("layer2.0.conv1.blur_filter").fill_(1 / 9)
    torch.save(network.state_dict(), tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.blur_filter: blurs otherwise"):
        import_network(read_source(str(tmp_path / "b.pt")), {"preset": "resnet18"})


@pytest.mark.parametrize("side", [64, 57])
@pytest.mark.parametrize(
    "description",
    [
        {"preset": "resnet18"},
        {"preset": "regnety_200mf"},
        {
            "block_type": ["inception", "vgg"],
            "num_blocks_per_stage": 2,
            "num_channels": [16, 16, 24],
            "stem": "conv3x3_s1",
        },
    ],
)
def test_complexity_is_what_the_network_computes(description: dict[str, Any], side: int) -> None:
    spec, plain = (network_spec(**description, blurpool=blurpool) for blurpool in (True, False))
    cost, network = network_complexity(spec, side), AnyNet(spec).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.randn(1, 3, side, side))
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    biases = sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    assert cost.flops == counter.get_total_flops() // 2 + biases
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    assert cost.params == network_complexity(plain, side).params
    without = network_complexity(plain, side).flops
    assert cost.flops is not None
    assert without is not None
    assert cost.flops > without


def test_a_blur_widens_the_receptive_field() -> None:
    fields = [
        part_complexities(network_spec(preset="resnet18", blurpool=blurpool))[2].receptive_field
        for blurpool in (False, True)
    ]
    assert fields[0] is not None
    assert fields[1] == fields[0] + 2 * 4  # once, at a step of 4 input pixels


@pytest.mark.parametrize("epochs", RAMPS)
@pytest.mark.parametrize("name", ["ffcv_rn18.yaml", "ffcv_rn50.yaml"])
def test_learning_rates_and_resolutions_are_the_scripts(name: str, epochs: int) -> None:
    start, end = RAMPS[epochs]
    ramp = [] if epochs == 88 else ["--train.epochs", str(epochs), "--data.res_ramp", str(start), str(end)]
    config = recipe(name, *ramp)
    peak, steps = config.optim.lr, 10
    assert peak == {"ffcv_rn18.yaml": 0.5, "ffcv_rn50.yaml": 1.7}[name]
    schedule = build_schedule(config.schedule, steps, epochs * steps)
    for epoch in range(epochs):
        first, last = np.interp([epoch, epoch + 1], [0, 2, epochs], [1e-4 * peak, peak, 0])
        theirs = np.interp(np.arange(steps), [0, steps], [first, last])
        ours = [peak * schedule(epoch * steps + step) for step in range(steps)]
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        side = int(np.round(np.interp(epoch, [start, end], [160, 192]) / 32)) * 32
        assert train_resolution(config.data, epoch) == side
    assert isinstance(config.data, DataConfig)
    assert (config.data.eval_res, config.data.eval_crop_ratio, config.eval.flip) == (256, 224 / 256, True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decay"), [("ffcv_rn18.yaml", 5e-5), ("ffcv_rn50.yaml", 1e-4)])
def test_twenty_steps_are_the_scripts(name: str, decay: float) -> None:
    """In float64, on images of 64 pixels: blurpool, loss, learning rates, momentum and what is decayed."""
    config, steps = recipe(name), 20
    torch.manual_seed(0)
    make = {"ffcv_rn18.yaml": resnet18, "ffcv_rn50.yaml": resnet50}[name]
    theirs = blur_theirs(make(num_classes=5)).double().train()
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    model = {**model_arguments(config), "num_classes": 5}
    from_theirs = read_state(state, model)
    ours = build_anynet(**model).double().train()
    ours.load_state_dict(from_theirs)
    named = list(theirs.named_parameters())
    groups = [
        {"params": [value for key, value in named if "bn" in key], "weight_decay": 0.0},
        {"params": [value for key, value in named if "bn" not in key], "weight_decay": decay},
    ]
    optimizers = torch.optim.SGD(groups, lr=1, momentum=0.9), build_optimizer(ours, config.optim)
    schedule = build_schedule(config.schedule, steps // 4, steps)
    losses = [nn.CrossEntropyLoss(label_smoothing=share) for share in (0.1, config.train.label_smoothing)]
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        images = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
        labels = torch.randint(5, (4,), generator=generator)
        set_learning_rate(optimizers[1], 0.001 * schedule(step))
        for group in optimizers[0].param_groups:
            group["lr"] = 0.001 * np.interp(step / (steps // 4), [0, 2, 4], [1e-4, 1, 0])
        for network, optimizer, loss in zip((theirs, ours), optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            optimizer.step()
    for key, value in read_state(theirs.state_dict(), model).items():
        assert torch.allclose(ours.state_dict()[key].double(), value.double(), rtol=1e-9, atol=1e-11), key


def read_state(state: dict[str, Tensor], model: dict[str, Any]) -> dict[str, Tensor]:
    """Their weights under our names, in their precision."""
    from anynet_dist.models.blurpool import without_blurpool
    from anynet_dist.models.convert import convert_state_dict

    return convert_state_dict(without_blurpool(state), build_anynet(**model))


def test_a_part_of_a_name_that_fits_no_parameter_is_refused() -> None:
    config = recipe("ffcv_rn18.yaml", "--optim.no_decay", "norm")
    with pytest.raises(UserError, match="no parameter's name contains 'norm'"):
        build_optimizer(build_anynet(preset="resnet20"), config.optim)
