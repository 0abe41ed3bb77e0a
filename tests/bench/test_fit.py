from __future__ import annotations

import json

import psutil
import pytest

from anynet_dist.bench.fit import SHARE, largest
from anynet_dist.cli import main
from anynet_dist.models import network_spec
from anynet_dist.models.memory import training_memory


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100, 1000])
def test_the_largest_number_that_fits_is_found_to_a_sixteenth(limit: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found = largest(fits)
    assert limit * 15 / 16 <= found <= limit
    assert len(tried) <= 16
    assert largest(lambda number: True, most=300) >= 300 * 15 // 16


def test_on_a_cpu_the_estimate_of_the_batch_fits_and_that_of_a_larger_one_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "fit", "regnetx_200mf", "--cpu", "--precision", "fp32", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    spec, free = network_spec(preset="regnetx_200mf", num_classes=1000), row["free_gib"] * 2**30
    assert 0 < free < psutil.virtual_memory().total
    assert training_memory(spec, 224, row["batch"]).total <= SHARE * free
    assert training_memory(spec, 224, row["batch"] + 2).total > SHARE * free
    assert row["memory_gib"] * 2**30 == pytest.approx(training_memory(spec, 224, row["batch"]).total)
