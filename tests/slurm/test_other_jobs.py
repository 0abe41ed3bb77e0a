"""The templates that do not train, and the README's commands."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from anynet_dist.data.beton.verify import verify_beton
from tests.conftest import Launch
from tests.runs.wandb_server import WandbServer
from tests.slurm.cluster import NETWORK, Cluster
from tests.slurm.conftest import User

pytestmark = pytest.mark.xdist_group("slurm")

ROOT = Path(__file__).resolve().parents[2]


def sbatch(cluster: Cluster, site: Path, *words: object) -> str:
    """What a user types: sbatch, a template and its arguments, in the checkout."""
    settings = (f"ANYNET_SITE={site}", f"ANYNET_SLURM={ROOT / 'slurm'}")
    return cluster.run("env", *settings, "sbatch", "--parsable", *words).strip()


def test_imagenet_is_built_on_a_node(user: User, cluster: Cluster) -> None:
    images = user.folder / "imagenet"
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n00000001", "n00000002"):
            (images / split / wnid).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (40 + number, 30), (60 * number, 90, 120))
                picture.save(images / split / wnid / f"{number}.JPEG")
    log, out = user.folder / "build.out", user.folder / "beton files"
    options = (f"--output={log}", "--cpus-per-task=1", ROOT / "slurm" / "build_imagenet.sbatch")
    job = sbatch(cluster, user.site(), *options, images, out, "--profile", "raw256")
    assert cluster.wait(job, log)["JobState"] == "COMPLETED", log.read_text()
    assert [verify_beton(out / f"{split}.beton").num_samples for split in ("train", "val")] == [6, 4]

    first = (out / "train.beton").stat().st_ino
    cluster.run("scontrol", "requeue", job)
    assert cluster.wait(job, log)["JobState"] == "COMPLETED", log.read_text()
    again = (out / "train.beton").stat().st_ino
    assert again != first, "a job that is queued again builds over its own files"
    another = sbatch(cluster, user.site(), *options, images, out, "--profile", "raw256")
    assert cluster.wait(another, log)["JobState"] == "FAILED"
    assert "exist already: write elsewhere, or replace with --overwrite" in log.read_text()
    assert (out / "train.beton").stat().st_ino == again


def test_offline_records_are_sent_once(
    user: User, cluster: Cluster, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    config, run, log = user.config(train={"max_steps": 5}), user.folder / "run", user.folder / "sync.out"
    launch("train", config, "--run.dir", run, "--tracking.wandb", "offline")
    server = WandbServer(host=f"{NETWORK}.1")
    try:
        cluster.environment.update(server.environment)
        for _ in range(2):
            options = (f"--output={log}", ROOT / "slurm" / "wandb_sync.sbatch")
            job = sbatch(cluster, user.site(), *options, run)
            assert cluster.wait(job, log)["JobState"] == "COMPLETED", log.read_text()
    finally:
        server.close()
        for name in server.environment:
            del cluster.environment[name]
    (stored,) = server.runs.values()
    assert stored.starts == 1
    steps = [row["global_step"] for row in stored.history.values() if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5]
    assert "was sent before" in log.read_text()


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "slurm" / "README.md").read_text(), flags=re.M | re.S)
    text = "".join(blocks).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.split()[0] in ("anynet", "sbatch")]
    return [line for line in lines if not line.startswith("anynet data build")]


def test_the_readmes_commands_are_accepted(user: User, cluster: Cluster) -> None:
    """sbatch checks each one against the cluster, with its own folder, data and site, and starts nothing."""
    commands = readme_commands()
    assert {line.split()[0] for line in commands} == {"anynet", "sbatch"}
    named = set(re.findall(r"slurm/(\w+\.sbatch)", " ".join(commands)))
    assert named == {path.name for path in (ROOT / "slurm").glob("*.sbatch")}
    (user.folder / "members.txt").write_text("--optim.lr 0.1\n--optim.lr 0.2\n--optim.lr 0.4\n")
    for folder in ("digits", "imagenet"):
        (user.folder / "data" / folder).mkdir(parents=True)
        for split in ("train", "val", "test"):
            (user.folder / "data" / folder / f"{split}.beton").touch()
    for name in ("configs", "launch"):
        (user.folder / name).symlink_to(ROOT / name)
    (user.folder / "slurm").mkdir()
    user.site().rename(user.folder / "slurm" / "site.sh")
    (user.folder / "runs" / "resnet50" / "slurm").mkdir(parents=True)
    (user.folder / "runs" / "resnet50" / "slurm" / "submitted.json").write_text('{"job": "1"}')
    for file in (ROOT / "slurm").iterdir():
        (user.folder / "slurm" / file.name).symlink_to(file)
    for command in commands:
        words = shlex.split(command)
        if words[0] == "sbatch":
            words.insert(1, "--test-only")
            words = [word for word in words if not word.startswith(("--gpus-per-node", "--gres"))]
            words[1:1] = ["--partition=low", "--gpus-per-node=2", "--ntasks-per-node=2", "--cpus-per-task=1"]
        elif "submit" in words[1:3] and "--dry-run" not in words:
            words.append("--dry-run")
        cluster.run("env", f"--chdir={user.folder}", *words)
