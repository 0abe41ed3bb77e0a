"""Where a run goes in Weights & Biases, and what is refused before it trains."""

from dataclasses import replace
from pathlib import Path

import pytest

from anynet_dist.config import Config, load_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.config.schema import TrackingConfig
from anynet_dist.runs.trackers import check_trackers
from anynet_dist.runs.wandb_settings import wandb_settings
from anynet_dist.system.errors import UserError


def config(**tracking: object) -> Config:
    return replace(Config(), tracking=TrackingConfig(**{"wandb": "online", **tracking}))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("wandb_project", "a#b", "tracking.wandb_project: must be a name, or entity/project, without any of"),
        ("wandb_project", "a/b/c", "tracking.wandb_project: must be a name, or entity/project"),
        ("wandb_project", "/b", "tracking.wandb_project: must be a name"),
        ("wandb_project", "p" * 129, "tracking.wandb_project: must have at most 128 characters (got 129)"),
        ("wandb_entity", "a/b", "tracking.wandb_entity: must be a name"),
        ("tags", "t" * 65, "tracking.tags: a tag has at most 64 characters"),
        ("tags", " ", "tracking.tags: a tag must not be empty"),
    ],
)
def test_names_that_wandb_refuses_are_refused_with_the_config(
    blobs_config: Path, mode: str, option: str, value: str, message: str
) -> None:
    words = ["--tracking.wandb", mode, f"--tracking.{option}", value]
    with pytest.raises(ConfigError) as caught:
        load_config(blobs_config, words)
    assert message in str(caught.value)


def test_entity_and_project_in_one() -> None:
    both = wandb_settings(config(wandb_project="team/digits"), {})
    assert (both.entity, both.project) == ("team", "digits")
    assert wandb_settings(config(wandb_project="team/digits", wandb_entity="team"), {}).project == "digits"
    assert wandb_settings(config(), {"WANDB_PROJECT": "team/digits"}).entity == "team"


def test_an_entity_said_twice_must_be_the_same(blobs_config: Path) -> None:
    words = ["--tracking.wandb", "offline", "--tracking.wandb_project", "a/b", "--tracking.wandb_entity", "c"]
    with pytest.raises(ConfigError, match=r"names the entity 'a', but tracking\.wandb_entity is 'c'"):
        load_config(blobs_config, words)


def test_variables_fill_in_what_the_config_leaves_open() -> None:
    variables = {
        "WANDB_PROJECT": "p",
        "WANDB_ENTITY": "e",
        "WANDB_NAME": "n",
        "WANDB_TAGS": "a,b",
        "WANDB_RUN_ID": "id1",
    }
    open_ = wandb_settings(config(tags=["b", "c"]), variables)
    assert (open_.project, open_.entity, open_.name) == ("p", "e", "n")
    assert (open_.tags, open_.run_id, open_.left_out) == (("b", "c", "a"), "id1", ())
    decided = wandb_settings(config(wandb_project="q", wandb_entity="f"), variables)
    assert (decided.project, decided.entity) == ("q", "f")
    assert decided.left_out == (
        "WANDB_PROJECT=p has no effect, q is taken",
        "WANDB_ENTITY=e has no effect, f is taken",
    )
    assert wandb_settings(config(), {"WANDB_DIR": "/x"}).left_out == (
        "WANDB_DIR=/x has no effect, the run folder is taken",
    )
    assert wandb_settings(config(), {}).project == "anynet"


@pytest.mark.parametrize(
    ("asked", "variables", "mode"),
    [
        ("online", {}, "online"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "off"),
        ("online", {"WANDB_DISABLED": "true"}, "off"),
        ("offline", {"WANDB_MODE": "online"}, "offline"),
        ("offline", {"WANDB_MODE": ""}, "offline"),
        ("off", {"WANDB_MODE": "online"}, "off"),
    ],
)
def test_the_mode_is_the_quieter_of_the_two(asked: str, variables: dict[str, str], mode: str) -> None:
    assert wandb_settings(config(wandb=asked), variables).mode == mode


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_PROJECT", "a b%"),
        ("WANDB_ENTITY", "a:b"),
        ("WANDB_TAGS", "t" * 65),
        ("WANDB_RUN_ID", "a/b"),
        ("WANDB_MODE", "onlin"),
    ],
)
def test_variables_that_wandb_refuses_are_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: "):
        wandb_settings(config(), {name: value})


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        ("online", "WANDB_API_KEY", "too short"),
        ("offline", "WANDB_HTTP_TIMEOUT", "soon"),
        ("online", "WANDB_BASE_URL", "no url"),
    ],
)
def test_a_key_or_setting_that_wandb_cannot_use_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, name: str, value: str
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        check_trackers(config(wandb=mode))
    assert len(str(caught.value).splitlines()) == 1
    assert name != "WANDB_API_KEY" or value not in str(caught.value)
