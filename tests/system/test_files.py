import hashlib
from pathlib import Path

import pytest

from anynet_dist.system.files import atomic_path, sha256_of, write_json, write_text


def test_a_file_appears_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "file.txt", "text")
    assert (tmp_path / "new" / "file.txt").read_text() == "text"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"old": True})

    def fail() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert '"old": true' in (tmp_path / "file").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_checksum_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
