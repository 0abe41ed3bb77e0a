from pathlib import Path

import pytest

from anynet_dist.cluster.site import Site, read_site
from anynet_dist.system.errors import UserError


def test_bash_reads_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "site with spaces.sh"
    path.write_text(
        "ANYNET_ACCOUNT='a b'\nANYNET_PARTITION=$(echo gpu)\nANYNET_GPUS_PER_NODE=4\nANYNET_TIME=\n"
        "ANYNET_SBATCH_OPTIONS=(--exclusive '--comment=two words; $(false)')\necho said something\n"
    )
    assert read_site(path) == Site(
        account="a b",
        partition="gpu",
        gpus_per_node=4,
        sbatch_options=("--exclusive", "--comment=two words; $(false)"),
    )


def test_the_example_is_one(root: Path) -> None:
    site = read_site(root / "slurm" / "site.example.sh")
    assert (site.gpus_per_node, site.signal, site.signal_seconds) == (8, "USR1", 180)
    assert site.sbatch_options == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ANYNET_GPUS_PER_NODE=many", r"ANYNET_GPUS_PER_NODE: .*\(got 'many'\)"),
        ("ANYNET_SIGNAL=KILL", r"ANYNET_SIGNAL: .*\(got 'KILL'\)"),
        ("ANYNET_TIME='1:00", "bash cannot read it"),
        ("no-such-program", "bash cannot read it: .*no-such-program"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.sh"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        read_site(path)


def test_missing_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copy slurm/site\.example\.sh"):
        read_site(tmp_path / "site.sh")
