"""C functions that compiled code calls by name: code that holds their addresses could not be kept on disk."""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding
from numba import types

_TYPES = {
    "p": types.voidptr,
    "q": types.int64,
    "Q": types.uint64,
    "i": types.int32,
    "I": types.uint32,
    "?": types.boolean,
    "": types.void,
}
"""By the letters of Python's `struct`; a pointer may also be taken as an integer."""


def c_function(name: str, function: Any, arguments: str, result: str) -> Any:
    """The C function at the address of `function`, a ctypes one, under a `name` of ours; `arguments` holds a
    letter each."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, _TYPES[result](*(_TYPES[letter] for letter in arguments)))
