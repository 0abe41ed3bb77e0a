import errno
import hashlib
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from anynet_dist.cluster.site import read_site
from anynet_dist.cluster.status import find_runs, statuses
from anynet_dist.cluster.submission import members_of
from anynet_dist.config import load_config
from anynet_dist.data.dataset import open_dataset
from anynet_dist.models.pretrained import read_source
from anynet_dist.runs.network_file import load_network
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import (
    atomic_path,
    check_outputs,
    read_regular_file,
    remove_partials,
    require_regular_file,
    sha256_of,
    write_json,
    write_text,
)
from anynet_dist.system.plugins import load_plugins


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


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {"notes.partial", ".mine.partial", "a.safetensors"}
    for name in (*kept, ".model.safetensors.4711.partial", "..anynet_run.json.12.partial"):
        (tmp_path / name).touch()
    (tmp_path / ".folder.1.partial").mkdir()
    remove_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {".folder.1.partial"}


def test_an_error_of_the_operating_system_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    with pytest.raises(OSError, match=r"Input/output error: '.*report\.html'"), atomic_path(target):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_checksum_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_device(path: Path) -> None:
    """A device like /dev/null, of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "is a folder, not a file"),
    "pipe": (os.mkfifo, "is a named pipe, not a file"),
    "socket": (make_socket, "is a socket, not a file"),
    "device": (make_device, "is a device, not a file"),
    "link to a folder": (lambda path: path.symlink_to(path.parent), "is a folder, not a file"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "is a link to gone, which does not exist"),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_file_is_named_and_stays(kind: str, tmp_path: Path) -> None:
    make, message = IN_THE_WAY[kind]
    target = tmp_path / "x"
    make(target)
    before = target.lstat()
    for write in (lambda: write_text(target, "text"), lambda: check_outputs(target, overwrite=True)):
        with pytest.raises(UserError, match=f"x {message}"):
            write()
    after = target.lstat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_link_to_a_file_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_text("old")
    (tmp_path / "link").symlink_to("disk/file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "new"
    assert {path.name for path in tmp_path.rglob("*")} == {"disk", "file", "link"}


def test_files_that_are_there_are_named_unless_they_may_be_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    check_outputs(first, second, tmp_path / "new" / "c")
    first.touch()
    with pytest.raises(UserError, match=r"/a exists already: .*--overwrite"):
        check_outputs(first, second)
    second.touch()
    with pytest.raises(UserError, match=r"/a, \S*/b exist already: .*--overwrite"):
        check_outputs(first, second)
    check_outputs(first, second, overwrite=True)


@pytest.mark.parametrize("target", ["file/x", "file/folder/x", "circle", "/", "x" * 300])
def test_a_place_where_no_file_can_be_is_named(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match=r"cannot be written: |is a folder"):
        check_outputs(tmp_path / target)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nobody writes to: opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    return tmp_path / "pipe.safetensors"


@pytest.mark.parametrize(
    "opened",
    [
        require_regular_file,
        lambda path: read_source(str(path)),
        load_network,
        members_of,
        read_site,
        open_dataset,
        load_config,
        lambda path: load_plugins([path]),
    ],
)
def test_a_pipe_that_the_user_names_is_refused_instead_of_waited_for(
    opened: Callable[[Path], object], pipe: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(str(pipe))):
        opened(pipe)


def test_a_pipe_in_a_run_folder_does_not_hold_up_its_status(tmp_path: Path) -> None:
    for name in ("status.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    (status,) = statuses(find_runs([tmp_path]))
    assert status.state == "damaged"


def test_files_are_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular_file(tmp_path / "file", most=5) == b"12345"
    require_regular_file(tmp_path / "file")
    require_regular_file(tmp_path / "nothing")
    with pytest.raises(OSError, match="has 5 bytes, more than the 4 allowed"):
        read_regular_file(tmp_path / "file", most=4)
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        read_regular_file(tmp_path)
