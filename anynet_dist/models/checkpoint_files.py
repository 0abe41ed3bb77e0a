"""Checkpoints of other trainers: read without running code, and one of the networks in them chosen.

timm's train.py, torchvision's reference scripts and pycls keep weights and their moving average beside the
options of the run, in a pickle. Only what such files need is allowed in it.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]
Weights = Literal["ema", "raw", "best"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

RAW = ("model_state", "state_dict", "model", "model_state_dict")
"""Where checkpoints keep the weights that were trained: pycls, timm, torchvision, PyTorch's tutorials."""
AVERAGED = ("ema_state", "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Where they keep the moving average of them."""
UPDATES = "n_averaged"
"""What torch's AveragedModel adds to its state dict: how often it was updated."""
AVERAGED_ERRORS = ("ema_err", "test_ema_err")
SHOWN = 12
"""Keys of a checkpoint without weights that the message names."""

_NUMBERS = ("bool_", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def _allowed() -> list[Any]:
    """Plain data that torch.load does not know by itself: options of a run, numpy's numbers, paths."""
    scalar, array = (value.__reduce__()[0] for value in (np.float64(), np.zeros(0)))
    allowed: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
    allowed += {type(np.dtype(number)) for number in _NUMBERS}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and 2
        allowed += [(scalar, f"{module}.scalar"), (array, f"{module}._reconstruct")]
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath"):
            allowed.append((PurePosixPath, f"{module}.{name}"))
        for name in ("WindowsPath", "PureWindowsPath"):
            allowed.append((PureWindowsPath, f"{module}.{name}"))
    return allowed


def read_checkpoint(path: Path) -> object:
    """What a safetensors file holds, or one of torch.save, of which no code is run.

    Raises UserError where the file is damaged, or holds objects that only running code could load.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        with safe_globals(_allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _cannot_be_read_safely(path, str(error)) from None
    except (SafetensorError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a complete weight file: {_first_line(error)}") from None
    except Exception as error:  # a damaged pickle may fail in any way
        if "TorchScript" in str(error):
            raise _cannot_be_read_safely(path, "GLOBAL TorchScript") from None
        raise UserError(f"{path} is not a complete weight file: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _cannot_be_read_safely(path: Path, message: str) -> UserError:
    found = re.search(r"GLOBAL (\S+)|but got <class '([^']+)'>|unrecognized function <\S+ ([\w.]+)", message)
    if found is None:
        return UserError(f"{path} is no weight file that can be read safely: it is not one of torch.save")
    name = next(filter(None, found.groups()))
    what = "a TorchScript program" if name == "TorchScript" else f"an object of the kind {name}"
    return UserError(
        f"{path} is no weight file that can be read safely: it holds {what}, which only running"
        f" code could load; where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
    )


def choose_weights(checkpoint: Any, weights: Weights = "best") -> StateDict:
    """The weights in a checkpoint, or `checkpoint` itself where it is a state dict.

    `raw` are those that were trained, `ema` their moving average, `best` what the errors in the checkpoint
    state is better; where it states nothing, the average if there is one.

    Raises UserError where there are none, or not those that were asked for.
    """
    found: dict[str, tuple[str, StateDict]] = {}
    for kind, names in (("raw", RAW), ("ema", AVERAGED)):
        place = _under(checkpoint, names)
        if place:
            found[kind] = place
    if not found and _is_state_dict(checkpoint):
        found["ema" if UPDATES in checkpoint else "raw"] = ("", checkpoint)
    if not found:
        raise UserError(_no_weights(checkpoint))
    chosen, reason = (weights, "as asked") if weights != "best" else _better(checkpoint, set(found))
    if chosen not in found:
        there, asked = ("raw", "no moving average") if chosen == "ema" else ("ema", "only a moving average")
        raise UserError(f"there is {asked} of the weights here: leave out --weights, or ask for {there}")
    name, state = found[chosen]
    if name:
        logger.info("taking the weights from the checkpoint's '%s' (%s)", name, reason)
    return {key: tensor for key, tensor in state.items() if key != UPDATES}


def _under(checkpoint: Any, names: tuple[str, ...]) -> tuple[str, StateDict] | None:
    """The first of the names with a state dict under it, and that state dict."""
    for name in names if isinstance(checkpoint, Mapping) else ():
        value = checkpoint.get(name)
        inner = _under(value, RAW)
        if inner:
            return name, inner[1]
        if _is_state_dict(value):
            return name, value
    return None


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _better(checkpoint: Any, found: set[str]) -> tuple[str, str]:
    """Which of raw and ema, and why."""
    if len(found) == 1:
        return found.pop(), "there are no others"
    raw = checkpoint.get("test_err")
    average = next((checkpoint[name] for name in AVERAGED_ERRORS if name in checkpoint), None)
    if not isinstance(raw, Real) or not isinstance(average, Real):
        return "ema", "the moving average; --weights raw takes the others"
    errors = f"the trained weights have an error of {raw:g}, their average {average:g}"
    return ("raw" if raw <= average else "ema"), errors


def _no_weights(checkpoint: object) -> str:
    keys = list(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else [type(checkpoint).__name__]
    found = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    places = ", ".join((*RAW, *AVERAGED))
    return (
        f"there is no state dict, names with their tensors: neither here nor under {places} (found: {found})"
    )
