"""The packages that only some exports need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from anynet_dist.system.errors import UserError
from anynet_dist.system.install import install_command


def require(package: str) -> Any:
    """An optional package. Raises UserError where it is missing."""
    try:
        return import_module(package)
    except ImportError:
        raise UserError(
            f"this export needs {package}, which is not installed: {install_command('export')}"
        ) from None
