"""FFCV's compiled library, which decodes and resizes, loaded without its Python package.

Importing that package would set torch's and numba's number of threads for the whole process and compile for
seconds.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path


def _load() -> ctypes.CDLL:
    """The library among the files of the installed package; raises ImportError where there is none."""
    package = importlib.util.find_spec("ffcv")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for file in sorted(Path(folder).glob("_libffcv*.so")):
            return ctypes.CDLL(str(file))
    raise ImportError("FFCV's compiled library is not installed")


libffcv = _load()
libc = ctypes.CDLL("libc.so.6")
