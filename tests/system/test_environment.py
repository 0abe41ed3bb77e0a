import json

import pytest

from anynet_dist.system import distributed
from anynet_dist.system.environment import environment_report


def test_the_report_has_versions_but_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    words = ["anynet", "train", "--data.train=https://u:planted-secret@h", "--a", "h?key=planted-secret"]
    monkeypatch.setattr("sys.argv", words)
    text = json.dumps(environment_report(2, "cpu"))
    assert "planted-secret" not in text
    assert json.loads(text)["command"][2:] == ["--data.train=https://***@h", "--a", "h?key=***"]
    assert json.loads(text)["versions"].keys() >= {"torch", "accelerate", "python", "anynet_dist"}


def test_the_launchers_variables_say_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (3, 8, 4)
    assert not distributed.is_main()
