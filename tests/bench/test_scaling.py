import pytest

from anynet_dist.bench.scaling import Cluster, Needs, needs_by_size, needs_of, scaling_lines
from anynet_dist.system.errors import UserError


def cluster(**changes: float) -> Cluster:
    figures: dict = {
        "gpus": 16,
        "images_per_second": 1000,
        "device_batch": 100,
        "parameters": 25_000_000,
        "images": 1_000_000,
        "image_bytes": 100_000,
        "loader_per_core": 500,
        "cores_per_node": 32,
        "cache_bytes": 50e9,
        "disk_bytes_s": 1e9,
        "link_bytes_s": 100e9,
        "network_bytes_s": 12.5e9,
    }
    return Cluster(**(figures | changes))


def test_the_formulas_by_hand() -> None:
    needs = needs_of(cluster())
    assert needs.global_batch == 1600
    assert needs.lr_factor == 6.25
    assert needs.steps_per_epoch == 625
    assert needs.step_s == 0.1
    assert needs.loader_images_s == 8000
    assert needs.loader_cores == 16
    assert needs.disk_bytes_s == pytest.approx(8000 * 0.5 * 100_000)  # half of 100 GB is cached
    assert needs.ring_bytes == pytest.approx(2 * 15 / 16 * 100e6)
    assert needs.all_reduce_s == pytest.approx(187.5e6 / 12.5e9)  # between machines is slower than within
    assert needs.exposed_s == 0
    assert needs.images_s == pytest.approx(16_000)
    assert needs.epoch_s == pytest.approx(62.5)
    assert needs.limits["loaders"] == 2
    assert needs.breaks_first == "loaders"


def test_one_gpu_sends_nothing_and_one_machine_only_within() -> None:
    alone = needs_of(cluster(gpus=1))
    assert (alone.ring_bytes, alone.all_reduce_s, alone.images_s) == (0, 0, 1000)
    assert alone.loader_images_s == 1000
    assert needs_of(cluster(gpus=8)).all_reduce_s == pytest.approx(2 * 7 / 8 * 100e6 / 100e9)


@pytest.mark.parametrize(
    ("changes", "part", "images_s"),
    [
        ({"cores_per_node": 8}, "loaders", 8_000),
        ({"disk_bytes_s": 1e8}, "disk", 4_000),
        # 1.875 s to send, of which two thirds of a step are hidden
        ({"network_bytes_s": 1e8}, "all-reduce", 1600 / (0.1 + 1.875 - 0.1 * 2 / 3)),
    ],
)
def test_the_tightest_part_sets_the_speed(changes: dict[str, float], part: str, images_s: float) -> None:
    needs: Needs = needs_of(cluster(**changes))
    assert needs.breaks_first == part
    assert needs.images_s == pytest.approx(images_s)


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(UserError, match="12 GPUs do not fill machines of 8"):
        cluster(gpus=12)
    with pytest.raises(UserError, match="loader_per_core must be more than 0"):
        cluster(loader_per_core=0)


def test_the_table_has_a_column_for_each_size() -> None:
    lines = scaling_lines(needs_by_size(cluster(), [1, 8, 16]))
    assert all(len(values) == 3 for _, values in lines)
    assert dict(lines)["all-reduce: could sustain"][0] == "any"
