"""Numbers within bounds and names out of a set, as types that pydantic checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
Level = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
AboveOne = Annotated[float, Field(gt=1)]

Precision = Literal["fp32", "bf16", "fp16"]
"""What a network computes in."""
