import math

import pytest

from anynet_dist.cluster.time_limit import limit_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("01:02:03", 3723),
        ("1-12", 129_600),
        ("0-00:05", 300),
        ("2-03:04:05", 183_845),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
    ],
)
def test_formats_of_slurm(text: str, seconds: float) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1h", "1:2:3:4", "1-", "-1", "1.5", "1-2-3", "1:", " 5"])
def test_other_texts(text: str) -> None:
    with pytest.raises(ValueError, match="must be MM, MM:SS, HH:MM:SS, D-HH, "):
        limit_seconds(text)


@pytest.mark.parametrize("text", ["0", "00:00:00", "0-0"])
def test_no_time_at_all(text: str) -> None:
    with pytest.raises(ValueError, match="is no time to run in"):
        limit_seconds(text)
