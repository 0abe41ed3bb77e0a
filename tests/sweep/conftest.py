"""Populations that look like trained ones, made without training."""

import numpy as np
import pytest

from anynet_dist.sweep.population import Kind, Member, Population, Result, Stage


def made_up(name: str, n: int, seed: int, shift: float = 0.0, kind: Kind = "sampled") -> Population:
    """`n` networks whose error falls with their multiply-adds; `shift` percent points better than others."""
    generator = np.random.default_rng(seed)
    members, results = [], {}
    for number in range(n):
        depths, widths = generator.integers(1, 9, 3), np.sort(8 * generator.integers(1, 33, 3))
        flops = float((depths * widths**2).sum() * 100)
        error = float(max(1, 110 - 4 * np.log(flops) - shift + generator.normal(0, 2)))
        members.append(
            Member(
                id=f"{number:04d}",
                parameters={
                    **{f"depth{stage}": int(depth) for stage, depth in enumerate(depths, 1)},
                    **{f"width{stage}": int(width) for stage, width in enumerate(widths, 1)},
                    "block_type": "bottleneck",
                },
                complexity={"flops": flops, "params": flops / 50, "acts": flops / 20},
                stages=tuple(
                    Stage(block="bottleneck", depth=int(depth), width=int(width), bottleneck_ratio=2.0)
                    for depth, width in zip(depths, widths, strict=True)
                ),
            )
        )
        curve = tuple((epoch, error + 20 / epoch) for epoch in range(1, 6))
        results[f"{number:04d}"] = Result(id=f"{number:04d}", errors=(error,), curve=curve)
    return Population(
        name=name,
        kind=kind,
        members=tuple(members),
        results=results,
        origin={"seed": seed},
    )


@pytest.fixture
def two() -> list[Population]:
    """Two sampled populations of 64 networks, one of them better."""
    return [made_up("wide", 64, 0), made_up("narrow", 64, 1, shift=3)]
