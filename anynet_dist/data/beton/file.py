"""Read a .beton file image by image, and notice when it is no longer the file whose tables were read.

Nothing is mapped into memory: where a mapped file is cut short, or its file server fails, a process ends with
a bus error and without a message. A failed read is an error to report.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anynet_dist.data.beton.format import BetonError, FileState

if TYPE_CHECKING:
    from anynet_dist.data.beton.format import BetonTable


class BetonFile:
    """The open file of a BetonTable; it can be pickled, and each process opens it for itself."""

    def __init__(self, table: BetonTable) -> None:
        self.table = table
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file; raises BetonError when it cannot be opened any more."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.table.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise BetonError(f"{self.table.path}: cannot be read any more: {error.strerror}") from error
        return self._descriptor

    def check(self) -> None:
        """Raises BetonError when the file was removed, replaced or written to since its tables were read.

        It takes a microsecond. A change that keeps the size within one tick of the file system's clock is not
        seen.
        """
        try:
            now = os.fstat(self.descriptor)
        except OSError as error:
            raise BetonError(f"{self.table.path}: cannot be read any more: {error.strerror}") from error
        before = self.table.state
        if now.st_nlink == 0:
            fault = "it was removed or replaced"
        elif now.st_size != before.size:
            fault = f"it had {before.size} bytes and has {now.st_size}"
        elif FileState.of(now) != before:
            fault = "it was written to"
        else:
            return
        raise BetonError(
            f"{self.table.path}: changed while in use: {fault}; restore it, check it with "
            "'anynet data verify', and start again"
        )

    def read(self, index: int) -> bytes:
        """The bytes of sample `index` as they lie in the file; raises BetonError when they cannot be read."""
        start, size = int(self.table.starts[index]), int(self.table.sizes[index])
        try:
            data = os.pread(self.descriptor, size, start)
        except OSError as error:
            raise self.unreadable(index, error.strerror) from error
        self.check()
        if len(data) < size:
            raise self.unreadable(index, "the file ends before it")
        return data

    def unreadable(self, index: int, reason: str | None = None) -> BetonError:
        """What to raise for a sample that cannot be read though the file seems to be what it was."""
        return BetonError(f"{self.table.path}: sample {index}: cannot be read: {reason or 'the disk failed'}")

    def misfit(self, index: int, found: tuple[int, int]) -> BetonError:
        """What to raise for a sample whose JPEG is of another size (height, width) than the table says."""
        table, (height, width) = self.table, found
        return BetonError(
            f"{table.path}: sample {index}: its JPEG has {width}x{height} pixels, but the table says "
            f"{table.widths[index]}x{table.heights[index]}; build it again with 'anynet data build'"
        )

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}
