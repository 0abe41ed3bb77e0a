"""The folder for what is worth keeping between runs and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """ANYNET_CACHE, else `anynet_dist` in the user's cache folder (XDG_CACHE_HOME, by default ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    return Path(os.environ.get("ANYNET_CACHE") or Path(base, "anynet_dist"))
