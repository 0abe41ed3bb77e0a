"""numba's compiled code on disk: an optimisation whose failure never ends a run.

By itself numba raises whatever goes wrong with its files, so that one cut short ends every later run, and it
executes machine code that changed on the disk.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

logger = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size
_reported: set[str] = set()


def compiled(**options: Any) -> Callable[..., Any]:
    """numba's njit without the interpreter's lock, kept on disk where there is a folder to write to."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, **options)(function)
        try:
            dispatcher._cache = KeptCode(function)
        except (RuntimeError, OSError):  # no such folder
            logger.debug("numba finds no folder to keep compiled code in")
        return dispatcher

    return decorate


class KeptCode(FunctionCache):
    """The compiled code of a function; what cannot be read is compiled anew, what cannot be written is not
    kept, and either is reported once per process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFiles(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature; None where none was kept, or none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling raises all kinds of errors
            _warn_once(self._cache_path, "cannot be read and is compiled anew", error)
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature where that can be done."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once(self._cache_path, "cannot be kept, so that each run compiles for seconds", error)

    def _forget(self) -> None:
        """Remove the list of what was kept of this function, so that it can be written again."""
        try:
            Path(self._cache_file._index_path).unlink(missing_ok=True)
        except OSError as error:
            logger.debug("%s cannot be removed: %s", self._cache_file._index_path, error)


class _CheckedFiles(IndexDataCacheFile):
    """numba's files, with the SHA-256 of the machine code before it."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        content = data[_DIGEST:]
        if hashlib.sha256(content).digest() != data[:_DIGEST]:
            raise ValueError(f"{name} has changed since it was written")
        return pickle.loads(content)  # noqa: S301 - as numba does, but only what was written


def _warn_once(folder: str, problem: str, error: Exception) -> None:
    """Report a kind of problem once per process; other functions, also in other folders, would report it
    too."""
    if problem not in _reported:
        _reported.add(problem)
        logger.warning(
            "numba's compiled code in %s %s: %s", folder, problem, str(error) or type(error).__name__
        )
