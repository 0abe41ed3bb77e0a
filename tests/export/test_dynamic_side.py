"""Files of whole networks that take images of any height and width."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from anynet_dist.export.exporter import export_network
from anynet_dist.export.formats import GRAPH_FORMATS
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.system.errors import UserError
from tests.export.test_exporter import metadata_of


@pytest.mark.slow
@pytest.mark.parametrize("to", list(GRAPH_FORMATS))
def test_any_height_and_width_on_request(trained: TrainedNetwork, to: str) -> None:
    path, check = export_network(trained, to, dynamic_side=True)
    assert check.max_difference < 1e-5
    function = GRAPH_FORMATS[to].read(path)
    for shape in ((1, 3, 24, 24), (2, 3, 32, 32), (3, 3, 47, 65)):
        images = torch.randn(shape)
        torch.testing.assert_close(function(images), trained.network(images), rtol=1e-4, atol=1e-5)
    assert json.loads(metadata_of(path)["input"])["shape"] == ["batch", 3, "height", "width"]


@pytest.mark.slow
def test_folded_and_normalised_networks_too(trained: TrainedNetwork) -> None:
    _, check = export_network(trained, "onnx", dynamic_side=True, fold_bn=True, with_normalisation=True)
    assert check.max_difference < 1e-5


@pytest.mark.slow
def test_one_side_only_unless_asked(trained: TrainedNetwork) -> None:
    path, _ = export_network(trained, "onnx")
    with pytest.raises(Exception, match=r"(?i)dimension"):
        GRAPH_FORMATS["onnx"].read(path)(torch.randn(1, 3, 32, 32))


def test_weights_have_no_side(trained: TrainedNetwork) -> None:
    with pytest.raises(UserError, match=r"--dynamic-side .* change the network"):
        export_network(trained, "safetensors", dynamic_side=True)


class FixedSide(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(side, side))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


@pytest.mark.slow
def test_a_network_for_one_side_alone_is_refused_in_a_sentence(trained: TrainedNetwork) -> None:
    trained.network.stem = nn.Sequential(FixedSide(24), trained.network.stem).eval()
    for to in ("onnx", "torch-export", "torchscript"):
        with pytest.raises(UserError, match="--dynamic-side: this network cannot take images of every size"):
            export_network(trained, to, dynamic_side=True)
        assert export_network(trained, to)[1].max_difference < 1e-5
