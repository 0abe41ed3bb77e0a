import re
from pathlib import Path

import pytest

from anynet_dist.cluster.site import VARIABLES, Site, read_site
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
    assert (site.gpus_per_node, site.cpus_per_gpu, site.time) == (1, 4, "04:00:00")  # fits a small cluster
    assert (site.signal, site.signal_seconds, site.sbatch_options, site.absent) == ("USR1", 180, (), ())


def test_the_example_has_every_setting(root: Path) -> None:
    text = (root / "slurm" / "site.example.sh").read_text()
    assert {line.partition("=")[0] for line in text.splitlines() if line.startswith("ANYNET_")} == set(
        VARIABLES.values()
    )


def test_what_jobs_read_can_be_set(root: Path) -> None:
    """No setting that the scripts use is refused as unknown."""
    own = {"SLURM", "SITE", "RUN", "LOGS", "RESUME_MARK", "FAILURE_FILE", "STOPPED_EXIT_CODE"}
    used = set()
    for path in (root / "slurm").glob("*.s*h*"):
        used |= set(re.findall(r"\$\{?ANYNET_(\w+)", path.read_text()))
    assert used - own
    assert {f"ANYNET_{name}" for name in used - own} <= set(VARIABLES.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ANYNET_GPUS_PER_NODE=many", r"ANYNET_GPUS_PER_NODE: .*\(got 'many'\)"),
        ("ANYNET_SIGNAL=KILL", r"ANYNET_SIGNAL: .*\(got 'KILL'\)"),
        ("ANYNET_TIME='1:00", "bash cannot read it"),
        ("no-such-program", "bash cannot read it: .*no-such-program"),
        ("ANYNET_ACOUNT=me", r"ANYNET_ACOUNT: there is no such setting; did you mean 'ANYNET_ACCOUNT'\?"),
        ("ANYNET_XYZZYX=1", r"ANYNET_XYZZYX: there is no such setting \(all are in slurm/site\.example\.sh"),
        ("ANYNET_TIME=1:2:3:4", r"ANYNET_TIME: must be MM, .* or UNLIMITED \(got '1:2:3:4'\)$"),
        ("ANYNET_TIME=soon", r"ANYNET_TIME: must be MM, .*\(got 'soon'\)$"),
        ("ANYNET_MEMORY=lots", r"ANYNET_MEMORY: must be a number with a unit, .*\(got 'lots'\)$"),
        ("ANYNET_GPUS_PER_NODE=a100", r"ANYNET_GPUS_PER_NODE: .* such as a100:4 \(got 'a100'\)$"),
        ("ANYNET_GPU_OPTION=gpus", r"ANYNET_GPU_OPTION: .*'gpus-per-node' or 'gres' \(got 'gpus'\)$"),
        ("ANYNET_PREFLIGHT=true", r"ANYNET_PREFLIGHT: .*'yes' or 'no' \(got 'true'\)$"),
        ("ANYNET_MAX_RESTARTS=-1", r"ANYNET_MAX_RESTARTS: .*\(got '-1'\)$"),
        ("ANYNET_CONTAINER_RUNTIME=docker", r"ANYNET_CONTAINER_RUNTIME: .*\(got 'docker'\)$"),
        ("ANYNET_MODULES=(gcc cuda)", r'ANYNET_MODULES: must be one string, not a list: "gcc cuda"$'),
        ("ANYNET_SBATCH_OPTIONS='--exclusive -C h100'", r"must be a list, one word each: \(--excl.* h100\)$"),
        ("ANYNET_SBATCH_OPTIONS=(exclusive)", "ANYNET_SBATCH_OPTIONS: 'exclusive' is no option of sbatch"),
        ("ANYNET_SBATCH_OPTIONS=(-t 5:00)", r"--time is not handed to sbatch; .*ANYNET_TIME\)$"),
        ("ANYNET_SBATCH_OPTIONS=(--gres gpu:2)", r"--gres=gpu:2: ask for GPUs with .*ANYNET_GPU_OPTION\)$"),
        ("ANYNET_PARTITION=$NO_SUCH", r"ANYNET_PARTITION: \$NO_SUCH is not set here"),
        ("ANYNET_STAGE_DIR=$ANYNET_SCRATCH", "ANYNET_SCRATCH: unbound variable"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.sh"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        read_site(path)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "site.sh"
    path.write_text("ANYNET_ACOUNT=me\nANYNET_TIME=soon\nANYNET_PREFLIGHT=maybe\n")
    with pytest.raises(UserError, match=r"(?s)ANYNET_ACOUNT.*ANYNET_TIME.*ANYNET_PREFLIGHT"):
        read_site(path)


@pytest.mark.parametrize("first", ["", "set -u\n"])
def test_variables_that_only_jobs_have(tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_TMPDIR", "LOCAL_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "site.sh"
    path.write_text(
        f"{first}ANYNET_STAGE_DIR=$SLURM_TMPDIR/data\nexport TRITON_CACHE_DIR=$LOCAL_SCRATCH\nANYNET_TIME=5\n"
    )
    site = read_site(path)
    assert (site.stage_dir, site.time) == ("$SLURM_TMPDIR/data", "5")
    assert (site.absent, site.doubtful) == (("SLURM_TMPDIR", "LOCAL_SCRATCH"), ["LOCAL_SCRATCH"])


def test_the_type_of_the_gpus(tmp_path: Path) -> None:
    path = tmp_path / "site.sh"
    path.write_text("ANYNET_GPUS_PER_NODE=a100_80gb:4\nANYNET_GPU_OPTION=gres\n")
    site = read_site(path)
    assert (site.gpus_per_node, site.gpu_type, site.gpu_option) == (4, "a100_80gb", "gres")


def test_missing_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"copy slurm/site\.example\.sh"):
        read_site(tmp_path / "site.sh")
