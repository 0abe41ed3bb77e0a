"""`anynet bench peers` with the libraries that are installed, on a network that takes milliseconds."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.bench.peers import MODULES, missing, ways
from anynet_dist.bench.peers.setting import PeerSetting
from anynet_dist.cli import main
from anynet_dist.config.schema import OptimConfig
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import IMAGENET

SHORT = ("--rounds", "1", "--steps", "2", "--warm-up", "1", "--workers", "1")
FEW = ("--train.global_batch", "8", "--data.loader", "device", "--data.augment.flip", "true")


def setting(**changes: Any) -> PeerSetting:
    return PeerSetting(
        **{
            "model": {},
            "data": "train.beton",
            "batch": 8,
            "resolution": 32,
            "augment": Augmentation(),
            "normalisation": IMAGENET,
            "optim": OptimConfig(),
            "precision": "bf16",
            "workers": 1,
            "folder": "",
            **changes,
        }
    )


@pytest.mark.slow
def test_every_library_that_is_installed_is_measured(
    blobs_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "peers.json"
    options = ["--data.augment.translate", "2", "--data.augment.cutout", "4", "--json", str(out)]
    assert main(["bench", "peers", str(blobs_config), *SHORT, *FEW, *options]) == 0
    shown = capsys.readouterr().out
    facts = json.loads(out.read_text())
    names = [row["trainer"] for row in facts["rows"]]
    for library in MODULES:
        assert bool(find_spec(library)) == any(library in name.lower() for name in names)
        assert bool(find_spec(library)) != (f"{library} is left out: it is not installed" in shown)
    assert names[0] == "anynet"
    assert facts["rows"][0]["ahead_ratio"] == 1
    for row in facts["rows"]:
        assert row["ahead_ratio"] == pytest.approx(
            facts["rows"][0]["images_per_second"] / row["images_per_second"]
        )
    assert "augmentation that not all trainers have is left out: translate, cutout" in facts["notes"]


def test_a_library_is_measured_as_its_script_is_and_with_what_makes_it_fast() -> None:
    fast, plain = ways("timm", setting()).values()
    assert (fast.precision, fast.channels_last, fast.library_defaults) == ("bf16", True, False)
    assert (plain.precision, plain.channels_last, plain.library_defaults) == ("fp32", False, True)
    published, bf16 = ways("lightning", setting()).values()
    assert (published.precision, bf16.precision) == ("fp32", "bf16")
    assert len(ways("lightning", setting(precision="fp32"))) == 1


def test_a_library_that_is_not_installed_is_named() -> None:
    assert missing("torchvision") is None
    assert missing("no_such_library") == (
        "no_such_library is left out: it is not installed (pip install no_such_library)"
    )
