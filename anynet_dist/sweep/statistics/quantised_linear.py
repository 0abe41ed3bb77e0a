"""How near the widths of a network are to a quantised linear function (RegNet, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anynet_dist.sweep.population import Stage
from anynet_dist.sweep.statistics.columns import FloatArray
from anynet_dist.system.errors import UserError

QUANTUM = 8
"""Widths and w0 are multiples of this."""
WM = (1.5, 3.0)
"""The range of wm that RegNet samples."""
KEPT = 8
"""Fits of one grid around which the next, finer one is laid."""


@dataclass(frozen=True, kw_only=True)
class QuantisedLinearFit:
    """The nearest quantised linear widths that were found."""

    e_fit: float
    """The mean over blocks of |ln(width / fitted width)|; 0 is a perfect fit."""
    w0: int
    wa: float
    wm: float
    depth: int


def fit_quantised_linear(stages: Iterable[Stage]) -> QuantisedLinearFit:
    """Fit w0, wa and wm to the widths of a network's blocks.

    Block j of d has u_j = w0 + wa * j; its fitted width is w0 * wm^round(log_wm(u_j / w0)), rounded to a
    multiple of 8. A grid over w0 (multiples of 8), the last block's u and wm finds the least e_fit; two finer
    grids around the best follow. Raises UserError where a stage has no width.
    """
    widths = _block_widths(stages)
    first, largest = widths[0], widths.max()
    w0 = _multiples(first / 2, first * 2)
    ends = np.geomspace(max(QUANTUM, first / 2), largest * 2, 24)
    grid = np.stack(np.meshgrid(w0, ends, np.linspace(*WM, 16), indexing="ij"), axis=-1).reshape(-1, 3)
    step = np.array([ends[1] / ends[0], 0.1])
    for _ in range(2):
        best = grid[np.argsort(_errors(widths, grid), kind="stable")[:KEPT]]
        grid = np.concatenate([best, *(_around(each, step) for each in best)])
        step = np.array([step[0] ** 0.2, step[1] / 5])
    errors = _errors(widths, grid)
    w, end, wm = grid[errors.argmin()]
    wa = max(0.0, end - w) / max(1, len(widths) - 1)
    return QuantisedLinearFit(
        e_fit=float(errors.min()), w0=int(w), wa=float(wa), wm=float(wm), depth=len(widths)
    )


def _block_widths(stages: Iterable[Stage]) -> FloatArray:
    stages = list(stages)
    if any(stage.width is None or stage.width < 1 for stage in stages):
        raise UserError("a quantised linear fit needs the width of every stage")
    widths = [float(stage.width or 0) for stage in stages for _ in range(stage.depth)]
    if not widths:
        raise UserError("a quantised linear fit needs a network with at least one block")
    return np.array(widths)


def _multiples(low: float, high: float, most: int = 24) -> FloatArray:
    """At most `most` multiples of the quantum, from `low` to `high`, evenly spread on a log scale."""
    spread = np.geomspace(max(QUANTUM, low), max(QUANTUM, high), most)
    return np.unique(np.maximum(1, np.round(spread / QUANTUM)) * QUANTUM)


def _around(point: FloatArray, step: FloatArray) -> FloatArray:
    """A grid around (w0, end, wm): the same w0 and one quantum to each side, and within a step the rest."""
    w0 = point[0] + QUANTUM * np.array([-1, 0, 1])
    ends = point[1] * np.geomspace(1 / step[0], step[0], 11)
    wm = np.clip(point[2] + np.linspace(-step[1], step[1], 11), *WM)
    return np.stack(np.meshgrid(w0[w0 >= QUANTUM], ends, wm, indexing="ij"), axis=-1).reshape(-1, 3)


def _errors(widths: FloatArray, grid: FloatArray) -> FloatArray:
    """The mean |log ratio| of `widths` to those of each (w0, end, wm) of `grid`."""
    w0, end, wm = (column[:, None] for column in grid.T)
    place = np.arange(len(widths)) / max(1, len(widths) - 1)
    linear = w0 + np.maximum(0, end - w0) * place
    levels = np.round(np.log(linear / w0) / np.log(wm))
    fitted = np.round(w0 * wm**levels / QUANTUM) * QUANTUM
    return np.abs(np.log(widths / fitted)).mean(axis=1)
