"""Numbers from outside, made safe for arithmetic."""

from __future__ import annotations

import math


def clamped(value: float, low: float, high: float) -> float:
    """`value` inside [low, high]; NaN becomes `low`."""
    if math.isnan(value) or value < low:
        return low
    return min(value, high)
