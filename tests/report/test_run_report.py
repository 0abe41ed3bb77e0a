"""What a run leaves to look at, and the page over several runs."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.cli import main
from anynet_dist.inference.predict import predict
from anynet_dist.report.find_runs import find_runs
from anynet_dist.report.findings import Findings, read_findings
from anynet_dist.report.run_figures import figures_of
from anynet_dist.report.run_record import read_run
from anynet_dist.report.run_report import write_report
from tests.browser import open_in_browser
from tests.conftest import CLASSES, Launch
from tests.report.conftest import config

TRIES = """
const text = id => document.getElementById(id).textContent;
const change = (id, value) => {
  const element = document.getElementById(id);
  element.value = value; element.dispatchEvent(new Event("change"));
};
const lines = () => document.querySelectorAll("#curves path[fill=none]").length;
seen.title = document.title; seen.lead = text("lead");
seen.charts = document.querySelectorAll("#curves figure").length;
seen.lines = lines();
change("axis", "0"); seen.steps = text("curves");
const box = document.querySelector("#runs input[type=checkbox]");
if (box) { box.click(); seen.fewer = lines(); change("run", "1"); }
seen.answers = text("answers"); seen.network = text("network"); seen.command = text("command");
const heads = [...document.querySelectorAll("#classes thead button")];
if (heads.length) {
  heads[0].click();
  seen.classes = [...document.querySelectorAll("#classes tbody tr")].map(r => r.children[0].textContent);
}
seen.images = [...document.querySelectorAll("#pictures img")].map(i => i.naturalWidth > 0);
seen.differences = text("differences");
"""


def findings_of(run: Path) -> Findings:
    findings = read_findings(run / "findings.json")
    assert findings is not None
    return findings


def copy_of(run: Path, folder: Path, name: str) -> Path:
    return Path(shutil.copytree(run, folder / name, symlinks=True))


def check_findings(run: Path, blobs: Path) -> None:
    """Each answer is what `anynet predict` gives for the very file."""
    findings = findings_of(run)
    assert (findings.split, findings.classes) == ("val", CLASSES)
    matrix, wrong = np.zeros((3, 3), int), {}
    for prediction in predict(run, [blobs / "val"], top=1):
        label, guess = CLASSES.index(Path(prediction.image).parent.name), prediction.guesses[0]
        matrix[label, guess.index] += 1
        if label != guess.index:
            wrong[prediction.image] = (label, guess)
    assert findings.matrix().tolist() == matrix.tolist()
    assert len(findings.mistakes) == min(24, len(wrong))
    for each in findings.mistakes:
        label, guess = wrong[each.name]
        assert (each.label, each.guess) == (label, guess.index)
        assert each.confidence == pytest.approx(guess.probability, abs=1e-4)
    sure = [each.confidence for each in findings.mistakes]
    assert sure == sorted(sure, reverse=True)
    certain = sorted((guess.probability for _, guess in wrong.values()), reverse=True)
    assert sure == pytest.approx(certain[:24], abs=1e-4)


def test_the_findings_are_those_of_the_network(trained: Path, blobs: Path) -> None:
    check_findings(trained, blobs)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_several_processes_bring_their_findings_together(blobs: Path, tmp_path: Path, launch: Launch) -> None:
    launch("train", config(tmp_path, blobs), processes=2)
    check_findings(tmp_path / "run", blobs)


def test_a_run_leaves_pictures(trained: Path) -> None:
    for name in ("train_batch.jpg", "confusion_matrix.png", "curves.png"):
        with Image.open(trained / name) as picture:
            picture.load()
            assert min(picture.size) > 100
    with Image.open(trained / "train_batch.jpg") as picture:  # 24 images, 8 in a row, each with its class
        assert picture.size == (6 + 8 * 102, 6 + 3 * (102 + 15))


@pytest.mark.slow
def test_the_page_of_a_run_in_a_browser(trained: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(trained / "report.html", tmp_path))
    seen = open_in_browser(page, TRIES)
    assert seen["problems"] == []
    assert seen["title"] == "run"
    assert "finished" in seen["lead"]
    assert "Best validation top-1" in seen["lead"]
    assert seen["charts"] >= 5
    assert "step" in seen["steps"]
    findings = findings_of(trained)
    right = sum(images for label, guess, images in findings.counts if label == guess)
    assert f"{right} of 37 right" in seen["answers"]
    assert "always answering the largest class" in seen["answers"]
    assert seen["classes"] == sorted(CLASSES)
    assert seen["images"]
    assert all(seen["images"])
    assert "stage" in seen["network"]
    assert seen["command"] == figures_of([read_run(trained)])["runs"][0]["command"]
    assert "model.num_channels" in seen["differences"]


@pytest.mark.slow
def test_the_page_of_several_runs_in_a_browser(trained: Path, tmp_path: Path) -> None:
    for name, lr in (("first", 0.02), ("<b>second", 0.5)):
        run = copy_of(trained, tmp_path / "runs", name)
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(re.sub(r"lr: 0\.02", f"lr: {lr}", text))
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "two.html")]) == 0
    seen = open_in_browser(tmp_path / "two.html", TRIES)
    assert seen["problems"] == []
    assert seen["title"] == "2 runs"
    assert seen["fewer"] == seen["lines"] / 2
    assert "optim.lr" in seen["differences"]
    assert "model.num_channels" not in seen["differences"]
    assert "<b>second" in seen["differences"]


def test_a_page_needs_no_host(trained: Path) -> None:
    text = (trained / "report.html").read_text()
    assert not re.findall(r"https?://|//[a-z]+\.", text)
    assert "default-src 'none'" in text


def test_a_hundred_runs_make_a_page_of_less_than_2_mb(trained: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    longer = [
        {**record, "step": record["step"] + 8 * repeat, "epoch": record["epoch"] + 2 * repeat}
        for repeat in range(150)
        for record in records
    ]
    run = replace(read_run(trained), records=longer)
    write_report([replace(run, name=f"run{number}") for number in range(100)], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 2_000_000


def test_tables_and_pictures(trained: Path, tmp_path: Path) -> None:
    first, second = (
        copy_of(trained, tmp_path / "runs", "first"),
        copy_of(trained, tmp_path / "runs", "second"),
    )
    out = ("--out", tmp_path / "page.html", "--tables", tmp_path / "tables", "--pictures", tmp_path / "png")
    assert main(["report", *map(str, (first, second, *out))]) == 0
    with open(tmp_path / "tables" / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    findings = findings_of(trained)
    right = np.trace(findings.matrix()) / findings.matrix().sum()
    assert [row["run"] for row in rows] == ["first", "second"]
    assert float(rows[0]["val"]) == pytest.approx(right)
    with open(tmp_path / "tables" / "records.csv") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(
            (trained / "metrics.jsonl").read_text().splitlines()
        )
    names = [f"{name}_{what}.png" for name in ("first", "second") for what in ("confusion_matrix", "curves")]
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == names


def test_a_picture_that_cannot_be_written_ends_no_run(
    blobs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, run = config(tmp_path, blobs), tmp_path / "run"
    assert main(["train", str(path), "--train.max_steps", "4", "--tracking.report", "false"]) == 0
    (run / "model.safetensors").unlink()
    (run / "findings.json").mkdir()
    (run / "findings.json" / "own").touch()
    assert main(["train", str(path), "--run.resume", "auto"]) == 0
    assert "findings.json is left out: " in capfd.readouterr().out
    assert (run / "findings.json" / "own").exists()
    assert (run / "report.html").exists()


def test_a_run_without_report(blobs: Path, tmp_path: Path) -> None:
    path = config(tmp_path, blobs, train={"epochs": 1, "global_batch": 24, "precision": "fp32"})
    assert main(["train", str(path), "--tracking.report", "false"]) == 0
    left = {file.name for file in (tmp_path / "run").iterdir()}
    assert not {"report.html", "findings.json", "train_batch.jpg", "curves.png"} & left
    assert main(["report", str(tmp_path / "run")]) == 0  # its log is enough
    assert (tmp_path / "run" / "report.html").exists()


def test_restarts_are_marked(blobs: Path, tmp_path: Path) -> None:
    path = config(tmp_path, blobs)
    assert main(["train", str(path), "--train.max_steps", "4"]) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    assert main(["train", str(path), "--run.resume", "auto"]) == 0
    run = read_run(tmp_path / "run")
    assert run.status["resumed_at"] == [4]
    assert figures_of([run])["runs"][0]["restarts"][0][:2] == [4, 1.0]


def test_an_offline_wandb_folder_alone_makes_the_same_page(blobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert main(["train", str(config(tmp_path, blobs)), "--tracking.wandb", "offline"]) == 0
    run = read_run(tmp_path / "run")
    (kept,) = find_runs([copy_of(tmp_path / "run" / "wandb", tmp_path, "kept")])
    assert (kept.state, kept.best("val"), kept.complexity) == ("finished", run.best("val"), run.complexity)
    shown, wanted = (figures_of([each])["runs"][0] for each in (kept, run))
    assert shown["curves"] == wanted["curves"]
    assert shown["stages"] == wanted["stages"]
    assert {key: kept.config[key] for key in run.config} == run.config


def test_what_holds_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_damaged_files_cost_only_what_they_held(trained: Path, tmp_path: Path) -> None:
    run = copy_of(trained, tmp_path, "run")
    for name in ("config.yaml", "findings.json", "environment.json", "network.json", "status.json"):
        (run / name).write_text("{ no")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "train/l')  # as a run that writes leaves it
    assert main(["report", str(run)]) == 0
    assert "best validation" in (run / "report.html").read_text()
