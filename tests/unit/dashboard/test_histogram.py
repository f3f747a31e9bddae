"""Percentiles from logarithmic buckets."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.fleet_view.histogram import GROWTH, LOWEST, Histogram
from sollol_agents.fleet_view.rates import WINDOW_S, Rate

values = st.lists(st.floats(min_value=LOWEST, max_value=1000.0), min_size=1, max_size=200)
shares = st.floats(min_value=0.01, max_value=1.0)


@given(values, shares)
def test_a_percentile_is_within_five_percent_of_the_exact_one(added: list[float], share: float) -> None:
    histogram = Histogram()
    for value in added:
        histogram.add(value)
    exact = sorted(added)[max(1, math.ceil(share * len(added))) - 1]
    found = histogram.quantile(share)
    assert found is not None
    assert abs(found - exact) / exact <= GROWTH**0.5 - 1 + 1e-6


@given(values, values)
def test_merging_is_adding_everything(left: list[float], right: list[float]) -> None:
    both, one, other = Histogram(), Histogram(), Histogram()
    for value in left:
        one.add(value)
        both.add(value)
    for value in right:
        other.add(value)
        both.add(value)
    one.merge(other)
    assert (one.count, one.quantile(0.5), one.quantile(0.99)) == (both.count, both.quantile(0.5), both.quantile(0.99))


def test_nothing_has_no_percentile() -> None:
    assert Histogram().quantile(0.5) is None


def test_a_rate_forgets_what_is_older_than_its_window() -> None:
    rate = Rate()
    rate.add(50, now=100.0)
    rate.add(50, now=100.9)
    assert rate.per_s(now=100.95) == 0, "the second is not over"
    assert rate.per_s(now=101.0) == 100 / WINDOW_S
    assert rate.per_s(now=100.9 + WINDOW_S) == 100 / WINDOW_S
    assert rate.per_s(now=101.0 + WINDOW_S) == 0
