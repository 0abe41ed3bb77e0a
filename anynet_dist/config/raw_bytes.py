"""Text with bytes that are no UTF-8, as paths may have, through pydantic, which takes real characters alone.

Python holds such a byte as a lone surrogate (U+DC80 to U+DCFF); meanwhile a private character stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

_STAND_INS = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_BACK = {private: surrogate for surrogate, private in _STAND_INS.items()}


def hide(value: Any) -> Any:
    """`value` with stand-ins for such bytes in all its strings."""
    return _map_strings(value, lambda text: text.translate(_STAND_INS))


def restore(value: Any) -> Any:
    """`value` with such bytes again."""
    return _map_strings(value, lambda text: text.translate(_BACK))


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_strings(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: _map_strings(getattr(value, name), change) for name in names})
    return value
