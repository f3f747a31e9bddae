"""Histograms with logarithmic buckets: percentiles from bounded memory, within 5 % of the exact value.

Bucket `i` holds values from `LOWEST * GROWTH**i` up to the next bound; a percentile is the geometric middle of its
bucket. Durations from a millisecond to half an hour, and ratios in the same range, fit; what lies outside counts in
the outermost buckets.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

LOWEST: Final = 0.001
GROWTH: Final = 1.1
_BUCKETS: Final = 152
_LOG_GROWTH: Final = math.log(GROWTH)


class Histogram:
    """Counts of positive values."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts = array("L", bytes(_BUCKETS * array("L").itemsize))
        self.count = 0
        """How many values were added."""

    def add(self, value: float) -> None:
        """Counts one value; negative ones and NaN are errors of the caller."""
        assert value >= 0, value
        self._counts[_bucket(value)] += 1
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Adds everything that another one counted."""
        for index, count in enumerate(other._counts):
            if count:
                self._counts[index] += count
        self.count += other.count

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of all values do not exceed; None when there are none."""
        if not self.count:
            return None
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return LOWEST * math.pow(GROWTH, index + 0.5)
        raise AssertionError("the buckets hold less than they counted")


def _bucket(value: float) -> int:
    if value <= LOWEST:
        return 0
    return min(_BUCKETS - 1, int(math.log(value / LOWEST) / _LOG_GROWTH))
