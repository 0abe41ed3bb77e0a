"""The names that loaders and ways to resize go by; without torch, for the config."""

from __future__ import annotations

from typing import Literal, get_args

LoaderName = Literal["auto", "ffcv", "torch", "device"]
LOADERS: tuple[LoaderName, ...] = get_args(LoaderName)
EvalResize = Literal["auto", "bilinear", "area"]
EVAL_RESIZES: tuple[EvalResize, ...] = get_args(EvalResize)
