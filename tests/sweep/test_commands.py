"""`anynet sweep` from sampling to the best network's config, on tables alone: nothing is trained here."""

import json
from pathlib import Path

import pytest

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.sweep.population import Result, read_population, write_results
from anynet_dist.training.build import model_arguments

CONFIG = "configs/cifar10/study.yaml"


@pytest.fixture
def sampled(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve networks of a shipped space, to be trained by a shipped recipe."""
    monkeypatch.chdir(root)
    folder = tmp_path / "population"
    words = ["regnetx_cifar", "--n", "12", "--seed", "3", "--flops", "2e6:3e6", "--out", str(folder)]
    assert main(["sweep", "sample", *words, "--config", CONFIG, "--train.epochs", "7"]) == 0
    return folder


def with_results(folder: Path) -> list[float]:
    """Gives each network an error that falls with its size."""
    population = read_population(folder)
    errors = {member.id: 90 - member.complexity["params"] / 1000 for member in population.members}
    population.results.update({name: Result(id=name, errors=(error,)) for name, error in errors.items()})
    write_results(folder, population)
    return list(errors.values())


def test_each_network_is_a_config_of_its_own(sampled: Path) -> None:
    population = read_population(sampled)
    assert (population.name, population.kind, len(population.members)) == ("regnetx-cifar", "sampled", 12)
    assert population.origin["seed"] == 3
    assert population.origin["window"] == "2e+06 <= flops <= 3e+06"
    for member in population.members:
        config = load_config(sampled / "configs" / f"{member.id}.yaml").config
        assert config.train.epochs == 7
        assert config.model.preset is None, "of the recipe all but its network is taken"
        assert config.run.dir == str(sampled / "runs" / member.id)
        spec = network_spec(**{**model_arguments(config), "num_classes": 10})
        counted = network_complexity(spec, 32)
        assert {"flops": counted.flops, "params": counted.params, "acts": counted.acts} == member.complexity
        assert [stage.width for stage in spec.stages] == [stage.width for stage in member.stages]


def test_the_same_seed_gives_the_same_folder(sampled: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    words = ["regnetx_cifar", "--n", "12", "--seed", "3", "--flops", "2e6:3e6", "--out", str(again)]
    assert main(["sweep", "sample", *words, "--config", CONFIG, "--train.epochs", "7", "--workers", "2"]) == 0
    for file in ("members.jsonl", "population.json", "configs/base.yaml"):
        assert (again / file).read_bytes() == (sampled / file).read_bytes()


def test_what_cannot_be_sampled_is_refused(
    sampled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["regnetx_cifar", "--out", str(sampled)], "already holds a population"),
        (["regnetx_cifr", "--out", str(tmp_path / "x")], "did you mean 'regnetx_cifar'?"),
        (["x.yaml", "--out", str(tmp_path / "x")], "x.yaml: there is no such file"),
        (["regnetx", "--out", str(tmp_path / "x"), "--flops", "4e8"], "--flops must be LEAST:MOST"),
        (["regnetx", "--out", str(tmp_path / "x"), "--train.epochs", "3"], "--config CONFIG"),
    ):
        assert main(["sweep", "sample", *words, "--n", "2"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


def test_describe_says_what_a_space_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "describe", "anynetx_e_cifar", "--flops", "2e6:3e6"]) == 0
    shown = capsys.readouterr().out
    assert "anynetx-e-cifar: 3 stages, 8 degrees of freedom" in shown
    assert "networks before the window: 10,771,200" in shown
    assert "2e+06 <= flops <= 3e+06" in shown
    assert shown.count(" x bottleneck ") == 9, "three networks of three stages"


def test_the_best_network_gets_a_config_that_says_why(
    sampled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "best", str(sampled)]) == 2
    assert "no member has been trained yet" in capsys.readouterr().err
    errors = with_results(sampled)
    out = tmp_path / "best.yaml"
    assert main(["sweep", "best", str(sampled), "--out", str(out), "--train.epochs", "100"]) == 0
    capsys.readouterr()
    config, text = load_config(out).config, out.read_text()
    assert config.train.epochs == 100
    largest = max(read_population(sampled).members, key=lambda member: member.complexity["params"])
    assert config.model.regnet.w0 == largest.parameters["w0"]
    assert f"# Top-1 error {min(errors):.2f} %, the lowest of 12 sampled networks." in text
    assert f"here {largest.complexity['params']:.4g}" in text
    assert main(["sweep", "best", str(sampled), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_published_population_is_read_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "published"
    table.write_text("id,error,flops,depth\na,10.5,1000,3\nb,9.5,2000,4\n")
    assert main(["sweep", "import", "csv", str(table), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["sweep", "status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["trainings"], status["finished"]) == (2, 2)
    assert status["best"] == {"id": "b", "error": 9.5}
