"""A change of numerics, meant or not, is seen in review: by losses that were kept."""

import json
from pathlib import Path

import pytest

from tests.training.golden_losses import FILE, RUNS, STEPS, losses, version

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_that_were_kept(name: str, tmp_path: Path) -> None:
    known = json.loads(FILE.read_text())
    if version() not in known:
        pytest.skip(f"{FILE.name} has no losses of torch {version()}: its module says how to add them")
    found = losses(RUNS[name], tmp_path)
    assert len(found) == STEPS
    # Processors round differently; what a change of an algorithm does is larger.
    assert found == pytest.approx(known[version()][name], rel=1e-3)
