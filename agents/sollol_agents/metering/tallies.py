"""Counters and histograms for Prometheus that cost next to nothing until somebody reads them.

The client library takes a lock for each number and looks its series up by name: a tenth of what a gateway did for a
request. Here everything runs on one loop, so a number is an entry in a dict, and its metric is made when it is asked
for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Count(Collector):
    """A counter.

    Args:
        name: What it is called; it ends with `_total`.
        help_text: What it counts.
        labels: Names of its labels.
        registry: Where it is registered.
    """

    def __init__(self, name: str, help_text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._told = name, help_text, tuple(labels)
        self._values: dict[Labels, float] = {}
        registry.register(self)

    @property
    def labels(self) -> Labels:
        """Names of its labels."""
        return self._told[2]

    def add(self, *labels: str, by: float = 1) -> None:
        """Counts up the series with these values of its labels."""
        values = self._values
        values[labels] = values.get(labels, 0) + by

    def describe(self) -> list[CounterMetricFamily]:
        """The metric without its series."""
        name, help_text, labels = self._told
        return [CounterMetricFamily(name, help_text, labels=labels)]

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The metric."""
        (family,) = self.describe()
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class _Series:
    """One series of a histogram: how many observations fell into each of its buckets, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0


class Spread(Collector):
    """A histogram.

    Args:
        name: What it is called.
        help_text: What it measures.
        labels: Names of its labels.
        buckets: Upper ends of its buckets, in order; the last one, without an end, is added.
        registry: Where it is registered.
    """

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._told = name, help_text, tuple(labels)
        self._ends = tuple(float(end) for end in buckets)
        self._series: dict[Labels, _Series] = {}
        if not labels:
            self._of(())
        registry.register(self)

    @property
    def labels(self) -> Labels:
        """Names of its labels."""
        return self._told[2]

    def observe(self, value: float, *labels: str) -> None:
        """Notes one value in the series with these values of its labels."""
        series = self._series.get(labels) or self._of(labels)
        series.counts[bisect_left(self._ends, value)] += 1
        series.sum += value

    def _of(self, labels: Labels) -> _Series:
        series = self._series[labels] = _Series(len(self._ends) + 1)
        return series

    def describe(self) -> list[HistogramMetricFamily]:
        """The metric without its series."""
        name, help_text, labels = self._told
        return [HistogramMetricFamily(name, help_text, labels=labels)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric."""
        (family,) = self.describe()
        ends = [*map(floatToGoString, self._ends), "+Inf"]
        for labels, series in self._series.items():
            family.add_metric(labels, list(zip(ends, accumulate(series.counts), strict=True)), series.sum)
        yield family
