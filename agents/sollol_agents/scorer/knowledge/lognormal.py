"""How much longer a running answer is expected to be, given the tokens it has already made.

Output lengths are taken as lognormal. With median `m` and log-deviation `s`, the expected rest after `x`
tokens is `m * mean_residual(x / m)`, the mean residual life of the distribution. It first falls and then
grows: an answer far beyond its expected length is probably one of the very long ones.
"""

from __future__ import annotations

import math

SIGMA = 0.75
"""Log-deviation of output lengths within one cell of the length table."""
MEAN_FACTOR = math.exp(SIGMA * SIGMA / 2)
"""Mean divided by median of a lognormal with `SIGMA`: 1.32."""

_SQRT2 = math.sqrt(2.0)
_LARGEST = 20.0  # both tails vanish in floating point not far beyond
_STEPS_PER_UNIT = 16
_erfc = math.erfc


def _exact(u: float) -> float:
    z = math.log(u) / SIGMA
    beyond = 0.5 * _erfc(z / _SQRT2)
    mass = MEAN_FACTOR * 0.5 * _erfc((z - SIGMA) / _SQRT2)
    return mass / beyond - u


_TABLE = [MEAN_FACTOR, *(_exact(i / _STEPS_PER_UNIT) for i in range(1, int(_LARGEST * _STEPS_PER_UNIT) + 2))]


def mean_residual(u: float) -> float:
    """Expected remaining length, in medians, after `u` medians; u >= 0, the result is > 0.

    Read from a table with linear interpolation (error below 1 %); constant beyond 20 medians.
    """
    assert u >= 0.0, u
    if u >= _LARGEST:
        return _TABLE[-1]
    at = u * _STEPS_PER_UNIT
    i = int(at)
    low = _TABLE[i]
    return low + (at - i) * (_TABLE[i + 1] - low)


def mean_rest(median: float, made: float) -> float:
    """Expected length of what is left of an answer of such a median, of which so much is made; >= 0."""
    return median * (mean_residual(made / median) if made > 0 and median > 0 else MEAN_FACTOR)
