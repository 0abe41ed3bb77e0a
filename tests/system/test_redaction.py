import logging
from pathlib import Path

import pytest

from anynet_dist.system.errors import RunError, UserError
from anynet_dist.system.failures import note_failure
from anynet_dist.system.redaction import RedactingFilter, is_redacted, redact, redact_values


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://user:secret@host:8080/x?a=1#b", "https://***@host:8080/x?a=1#b"),
        ("https://ghp_token@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("s3://KEY:SECRET@bucket/path@v2", "s3://***@bucket/path@v2"),
        ("s3://KEY:SE/CR+ET/@bucket/path@v2", "s3://***@bucket/path@v2"),
        ("https://user:p@ss:word@host/x", "https://***@host/x"),
        ("https://user:pa?ss#word@host/x", "https://***@host/x"),
        ("https://user:p\"w'd@host/x", "https://***@host/x"),
        ("postgresql+psycopg://me:p%40w@[::1]:5432/db", "postgresql+psycopg://***@[::1]:5432/db"),
        ("/here/https:/user:secret@host/x", "/here/https:/***@host/x"),
        ("https:/token@host", "https:/***@host"),
        ("--data.train=https://u:p@h/x", "--data.train=https://***@h/x"),
        ("https://h/?next=https://u:p@h/", "https://h/?next=https://***@h/"),
        ("https://a:b@c https://d:e@f", "https://***@c https://***@f"),
        ("https://h/x?token=abc&page=2", "https://h/x?token=***&page=2"),
        ("h/x?page=2&access_key=a%2Fb+c==#top", "h/x?page=2&access_key=***#top"),
        (
            "https://h?X-Amz-Credential=A/B&X-Amz-Date=1&X-Amz-Signature=f0",
            "https://h?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("https://h?AWSAccessKeyId=A&Signature=b", "https://h?AWSAccessKeyId=***&Signature=***"),
        ("https://h?sv=2&sig=a&api-key=b&Password=c", "https://h?sv=2&sig=***&api-key=***&Password=***"),
        ("(got 'https://h/?sig=abc').", "(got 'https://h/?sig=***')."),
        ('["https://u:p@h/?key=k", "a@b"]', '["https://***@h/?key=***", "a@b"]'),
        ("line\n\thttps://u:p@h\r\n", "line\n\thttps://***@h\r\n"),
    ],
)
def test_credentials_are_redacted_and_nothing_else(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert redact(redacted) == redacted
    assert is_redacted(redacted)
    assert not is_redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a@b",
        "me@example.org",
        "mailto:me@example.org",
        "torchvision:resnet50",
        "https://host:8080/a@b",
        "https://host/a:b@c?x=1&author=me&keyword=k&max_tokens=5&tokenizer=t",
        "http://[::1]:80/a@b",
        "file:///a@b",
        "hf://datasets/a/b@main/x",
        "server:/data/a@b",
        "/data/a:b@c",
        "C:\\data\\a@b",
        "C:/data:x@y",
        "c://x@y",
        '["https://a","x@y"]',
        "token=5 key=3",
        "** *** **",
    ],
)
def test_all_else_stays_to_the_byte(text: str) -> None:
    assert redact(text) == text
    assert not is_redacted(text)


def test_nested_values_keep_their_kinds() -> None:
    values = {"a": ["https://u:p@h", 1, None], "b": ("s3://K:S@b", 2.5), "c": {"d": True}}
    redacted = {"a": ["https://***@h", 1, None], "b": ("s3://***@b", 2.5), "c": {"d": True}}
    assert redact_values(values) == redacted
    assert is_redacted(redacted["a"])


@pytest.mark.parametrize("kind", [UserError, RunError])
def test_no_error_for_people_tells_credentials(kind: type[UserError]) -> None:
    assert str(kind("no https://u:pw@h")) == "no https://***@h"


def test_the_failure_file_tells_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYNET_FAILURE_FILE", str(tmp_path / "failure"))
    host = "host"
    try:
        raise OSError(f"cannot reach https://u:pw@{host}")
    except OSError as error:
        note_failure(error, 1, with_traceback=True)
    told = (tmp_path / "failure").read_text()
    assert "OSError: cannot reach https://***@host" in told
    assert "pw" not in told


def test_the_filter_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RedactingFilter())
    logger, host = logging.getLogger("anynet_dist.test"), "host"
    logger.warning("from %s, %d times", f"https://u:pw@{host}", 3)
    logger.warning("100 % of it")
    try:
        raise OSError(f"cannot reach https://u:pw@{host}")
    except OSError:
        logger.exception("lost")
    assert caplog.messages == [f"from https://***@{host}, 3 times", "100 % of it", "lost"]
    assert "OSError: cannot reach https://***@host" in caplog.text
    assert "pw" not in caplog.text
