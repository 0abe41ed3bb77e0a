"""Parts that users bring keep what they are: their initialisation, their name, their cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anynet_dist.models import build_anynet, load_plugins, register_block, register_head, register_stem
from anynet_dist.models.blocks import BasicBlock
from anynet_dist.models.heads import LinearHead
from anynet_dist.models.initialise import initialise_like_pycls
from anynet_dist.models.registry import BLOCKS
from anynet_dist.system.errors import UserError

pytestmark = pytest.mark.usefixtures("registries")
SMALL: dict[str, Any] = {"num_blocks_per_stage": [1, 2], "num_channels": [8, 16, 24], "num_classes": 5}


def digest(**options: Any) -> str:
    """Of the weights that seed 7 gives."""
    torch.manual_seed(7)
    found = hashlib.sha256()
    for name, tensor in build_anynet(**{**SMALL, **options}).state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"block_type": "bottleneck"}, "dbe8625e6f492c72"),
        ({"block_type": "basic"}, "9577fc1e556c7285"),
        ({"block_type": "vgg"}, "ee75fc243437ca5f"),
        ({"block_type": "vgg_residual"}, "6f1f23994fe87439"),
        ({"block_type": "vanilla"}, "545f82cc11bab069"),
        ({"block_type": "inception"}, "888f4c79e609ae16"),
        ({"block_type": "listing_bottleneck"}, "140a39c1151c03b3"),
        ({"block_type": "listing_vgg"}, "112f0afc50071a14"),
        ({"block_type": "listing_inception"}, "e9d876eeff62107e"),
        ({"se_ratio": 0.25, "stem": "conv7x7_s2_maxpool", "zero_init_residual": True}, "e3465d666ed320a5"),
        ({"head": "features", "init": "torch"}, "54751c2fcfdf4aba"),
        ({"block_type": "listing_vgg", "init": "pycls"}, "6cd5ea2f7d6a5639"),
    ],
)
def test_a_seed_gives_the_weights_that_it_always_gave(options: dict[str, Any], expected: str) -> None:
    torch.manual_seed(7)
    if hashlib.sha256(torch.randn(4096).numpy().tobytes()).hexdigest()[:16] != "df1f2643101fd189":
        pytest.skip("this processor, or this torch, draws other numbers")
    assert digest(**options) == expected


class Patches(nn.Sequential):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(nn.Conv2d(width_in, width_out, 4, stride=4))
        nn.init.constant_(self[0].weight, 0.5)  # type: ignore[arg-type]


class Scaled(BasicBlock):
    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__(width_in, width_out, stride)
        self.after = nn.Conv2d(width_out, width_out, 1)
        nn.init.dirac_(self.after.weight)
        nn.init.constant_(self.conv1.weight, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(x))


class TwoLayers(nn.Module):
    def __init__(self, width_in: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width_in, 32, bias=False)
        self.fc = nn.Linear(32, num_classes)
        nn.init.constant_(self.hidden.weight, 0.125)
        nn.init.constant_(self.fc.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(x.mean((2, 3))).relu())


def test_own_parts_keep_the_values_that_their_constructors_gave() -> None:
    register_stem("own_patches")(Patches)
    register_block("own_scaled")(Scaled)
    register_head("own_two_layers")(TwoLayers)
    parts = {"stem": "own_patches", "head": "own_two_layers"}
    network: Any = build_anynet(**SMALL, block_type=["basic", "own_scaled"], **parts, init="pycls")
    assert (network.stem[0].weight == 0.5).all()
    assert (network.stage2[0].conv1.weight == 0.25).all()
    assert torch.equal(network.stage2[0].after.weight, nn.init.dirac_(torch.empty(24, 24, 1, 1)))
    assert (network.head.hidden.weight == 0.125).all()
    assert (network.head.fc.bias == 3).all()
    # Our own block beside them is drawn as pycls does.
    assert network.stage1[0].conv2.weight.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


def test_a_part_without_a_constructor_of_its_own_is_drawn_as_the_one_that_made_it() -> None:
    @register_head("own_louder")
    class Louder(LinearHead):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain: Any = build_anynet(**SMALL, init="torch")
    drawn: Any = build_anynet(**SMALL, head="own_louder")
    assert drawn.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert plain.head.fc.weight.std().item() > 0.05


def test_own_parts_can_ask_for_our_initialisation() -> None:
    @register_head("own_asking")
    class Asking(TwoLayers):
        def __init__(self, width_in: int, num_classes: int) -> None:
            super().__init__(width_in, num_classes)
            initialise_like_pycls(self)

    network: Any = build_anynet(**SMALL, head="own_asking")
    assert network.head.hidden.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert (network.head.fc.bias == 0).all()


def test_a_residual_norm_that_is_none_is_named() -> None:
    @register_block("own_normless")
    class Normless(BasicBlock):
        def __init__(self, width_in: int, width_out: int, stride: int) -> None:
            super().__init__(width_in, width_out, stride)
            self.bn2 = nn.Identity()  # type: ignore[assignment]

    with pytest.raises(UserError, match=r"block Normless sets residual_norm = 'bn2', which has no weight"):
        build_anynet(**SMALL, block_type="own_normless", zero_init_residual=True)


CELL = """
from torch import nn
from anynet_dist.models import register_block

@register_block("own_cell")
class Cell(nn.Conv2d):
    def __init__(self, width_in, width_out, stride):
        super().__init__(width_in, width_out, KERNEL, stride, KERNEL // 2)
"""


def test_a_notebooks_cell_can_be_run_again_and_changed() -> None:
    notebook = {"__name__": "__main__"}
    for kernel in (3, 3, 5):
        exec(CELL.replace("KERNEL", str(kernel)), notebook)
        block: Any = BLOCKS["own_cell"](4, 8, 1)
        assert block.kernel_size == (kernel, kernel)


def test_another_class_under_a_taken_name_is_refused() -> None:
    exec(CELL.replace("KERNEL", "3"), {"__name__": "__main__"})
    with pytest.raises(
        UserError, match=r"'own_cell' is already registered \(__main__\.Cell\): choose another"
    ):
        exec(CELL.replace("KERNEL", "3").replace("Cell", "Other"), {"__name__": "__main__"})
    with pytest.raises(UserError, match="already registered"):
        exec(CELL.replace("KERNEL", "3"), {"__name__": "somebody_elses"})


def test_a_plugin_may_be_loaded_from_a_copy_and_again_when_it_has_changed(
    plugin_file: Callable[..., Path], tmp_path: Path
) -> None:
    source = CELL.replace("KERNEL", "3")
    first = plugin_file(source)
    (tmp_path / "kept").mkdir()
    copy = plugin_file(source, "kept/renamed.py")
    load_plugins([first, copy])
    first.write_text(CELL.replace("KERNEL", "5"))  # of the same size, within the same second
    load_plugins([first])
    block: Any = BLOCKS["own_cell"](4, 8, 1)
    assert block.kernel_size == (5, 5)
    with pytest.raises(UserError, match="block 'own_cell' is already registered"):
        load_plugins([plugin_file(CELL.replace("KERNEL", "7"), "other.py")])
