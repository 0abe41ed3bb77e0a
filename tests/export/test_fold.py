import pytest
import torch
from torch import Tensor, nn

from anynet_dist.export.fold import fold_batch_norm
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.models.anynet import build_anynet
from anynet_dist.system.errors import UserError


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_folding_leaves_no_batch_norm_and_the_same_outputs(trained: TrainedNetwork) -> None:
    images = torch.randn(4, 3, 24, 24)
    before = trained.network(images)
    folded = fold_batch_norm(trained.network)
    assert count_norms(folded) == 0
    torch.testing.assert_close(folded(images), before, rtol=1e-5, atol=1e-5)
    assert count_norms(trained.network) > 0
    assert torch.equal(trained.network(images), before)


@pytest.mark.parametrize("block", ["vgg", "inception", "basic", "listing_vgg", "listing_inception"])
def test_folding_knows_all_blocks(block: str) -> None:
    torch.manual_seed(0)
    network = build_anynet(
        block_type=block, num_blocks_per_stage=[1, 1], num_channels=[8, 8, 16], num_classes=4
    )
    network(torch.randn(8, 3, 32, 32))  # moves the batch-norm statistics
    images = torch.randn(2, 3, 32, 32)
    folded = fold_batch_norm(network.eval())
    assert count_norms(folded) == 0
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if x.sum() > 0 else x


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(UserError, match="--fold-bn: the network's graph cannot be traced"):
        fold_batch_norm(Branching().eval())
    with pytest.raises(UserError, match="no batch norm that directly follows a convolution"):
        fold_batch_norm(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).eval())
