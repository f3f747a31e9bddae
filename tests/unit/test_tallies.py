"""What tallies show is what the client library's own counters and histograms would show."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from sollol_agents.metering.tallies import Count, Spread

ENDS = (0.005, 1, 60)
VALUES = (0.0, 0.005, 0.0050001, 0.9, 1.0, 59.0, 60.5)


@pytest.fixture(autouse=True)
def _only_values() -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]


def test_a_count_reads_like_a_counter_of_the_library() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = Count("x_requests_total", "Requests.", ["path", "status"], ours)
    counter = Counter("x_requests_total", "Requests.", ["path", "status"], registry=theirs)
    for path, status, by in (("/a", "200", 1.0), ("/b", "404", 2.0), ("/a", "200", 0.0), ('/"\n', "200", 3.0)):
        count.add(path, status, by=by)
        counter.labels(path, status).inc(by)
    assert generate_latest(ours) == generate_latest(theirs)


@pytest.mark.parametrize("labels", [(), ("fast",)])
def test_a_spread_reads_like_a_histogram_of_the_library(labels: tuple[str, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    names = ["mode"] if labels else []
    spread = Spread("x_seconds", "Seconds.", names, ENDS, ours)
    histogram = Histogram("x_seconds", "Seconds.", names, buckets=ENDS, registry=theirs)
    assert generate_latest(ours) == generate_latest(theirs)
    for value in VALUES:
        spread.observe(value, *labels)
        (histogram.labels(*labels) if labels else histogram).observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


def test_two_of_one_name_cannot_be_registered() -> None:
    registry = CollectorRegistry()
    Count("x_total", "X.", [], registry)
    with pytest.raises(ValueError, match="x"):
        Count("x_total", "X.", [], registry)
