"""Files whose paths are no UTF-8, for libraries that open none of those (safetensors)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path itself where it is UTF-8, else that of a link to the file, which is gone after the block."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "file")
            link.symlink_to(Path(path).absolute())
            yield str(link)
    else:
        yield os.fspath(path)
